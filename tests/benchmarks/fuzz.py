"""Random and damaged inputs by the thousand: nothing but a clear message or a right result may come of them.

    python tests/benchmarks/fuzz.py --work /tmp/fuzz --minutes 4 --counts fuzz.json --out results/benchmarks/fuzz.md

Five targets, one after the other in one process. ``prepare``: logs of any values, forms, types and drifting
parts; the counts have to add up to the input. ``text``: bytes of delimited and JSON files, changed at random; lines
that are rows and lines that are none add up to those of the file. ``tables``: embedding tables of every layout, changed
at random; a table of our own is the one that was written or is refused. ``shards``: likewise. ``configuration``: flags
and YAML of every command. A finding is an exception that is no message, a wrong count, a changed value, or a hang.

Input number N of a target is the same in every run. With ``--counts`` a run continues behind the last input of the runs
before and adds to their counts, so that any number of short runs makes a long one.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Finding

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, write_json
from data_tools.common.provenance import made_by

HANGS = 60  # seconds
# Of the time: whole runs of prepare are slow, and a table takes milliseconds.
SHARES = {"prepare": 3, "text": 2, "tables": 6, "shards": 6, "configuration": 1}
OUTCOMES = ("read", "refused", "finding")


@dataclass(frozen=True)
class Settings:
    """How long, and on what.

    Attributes
    ----------
    work : str
        Folder for the inputs (emptied).
    minutes : float
        In all.
    targets : list of str
        All by default.
    seed : int
        Of the inputs.
    counts : str, optional
        JSON file of the counts and findings, which this run adds to; it continues behind their last inputs.
    out : str, optional
        Markdown file of the counts and findings.
    """

    work: str
    minutes: float = 12
    targets: list[str] = field(default_factory=list)
    seed: int = 0
    counts: str | None = None
    out: str | None = None


@dataclass
class Tally:
    """What came of the inputs of one target.

    Attributes
    ----------
    next : int
        The number of the next input.
    seconds : float
        That they took.
    outcomes : dict
        Outcome -> number of inputs.
    findings : dict
        What went wrong -> the inputs that show it, :func:`case` of each.
    """

    next: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    findings: dict[str, list[int]] = field(default_factory=dict)


def hang(*_: Any) -> None:
    raise Finding(f"no end after {HANGS} s")


def where(error: BaseException) -> str:
    """An exception by its kind and the last of our functions that it came through."""
    ours = [one for one in traceback.extract_tb(error.__traceback__) if "site-packages" not in one.filename]
    if isinstance(error, Finding):
        return f"{error}"[:160]
    last = ours[-1]
    said = str(error).splitlines()[0][:110] if str(error) else ""
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.name}: {said}"


def case(seed: int, number: int) -> int:
    """The seed of an input."""
    return seed * 10**9 + number


def one(target: Callable[[random.Random], str], work: Path, seed: int) -> tuple[str, str]:
    """The outcome of one input, and what was found."""
    signal.alarm(HANGS)
    try:
        # A random flag may name a file to write: it belongs in the work folder.
        with (
            contextlib.chdir(work),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return target(random.Random(seed)), ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "finding", where(error)
    finally:
        signal.alarm(0)


def attack(target: Callable[[random.Random], str], work: Path, seed: int, tally: Tally, seconds: float) -> None:
    """Try inputs for some time."""
    started, stay = time.monotonic(), {entry.name for entry in work.iterdir()}
    before = tally.seconds
    while time.monotonic() - started < seconds:
        number, tally.next = case(seed, tally.next), tally.next + 1
        outcome, found = one(target, work, number)
        tally.outcomes[outcome] += 1
        if found:
            tally.findings.setdefault(found, []).append(number)
        for entry in work.iterdir():
            if entry.name not in stay:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        tally.seconds = before + time.monotonic() - started


def markdown(tallies: dict[str, Tally]) -> str:
    """Counts a target, and what was found."""
    lines = ["| target | inputs | read | refused | findings | inputs a second |", "|---|" + "---:|" * 5]
    for name, tally in tallies.items():
        numbers = [tally.next, *(tally.outcomes[outcome] for outcome in OUTCOMES)]
        shown = " | ".join(f"{number:,}" for number in numbers)
        lines.append(f"| {name} | {shown} | {tally.next / max(tally.seconds, 1e-9):,.1f} |")
    lines.append(f"| **all** | **{sum(tally.next for tally in tallies.values()):,}** | | | | |\n")
    for name, tally in tallies.items():
        lines += [f"- {name}: {what} ({len(cases)}; case {cases[0]})" for what, cases in tally.findings.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    names = settings.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        raise UserError(f"no target is called {min(unknown)!r}; choose from {', '.join(TARGETS)}")
    signal.signal(signal.SIGALRM, hang)
    warnings.simplefilter("ignore")
    kept = read_json(settings.counts) if settings.counts and Path(settings.counts).exists() else {}
    if kept.get("seed", settings.seed) != settings.seed:
        raise UserError(f"{settings.counts} counts inputs of seed {kept['seed']}, not {settings.seed}")
    tallies = {name: Tally(**given) for name, given in kept.get("targets", {}).items()}
    for name in names:
        work = Path(settings.work).absolute() / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        seconds = 60 * settings.minutes * SHARES[name] / sum(SHARES[other] for other in names)
        attack(TARGETS[name](work), work, settings.seed, tallies.setdefault(name, Tally()), seconds)
        print(markdown({name: tallies[name]}), flush=True)
        if settings.counts:
            write_json(settings.counts, {"seed": settings.seed, "targets": {k: vars(v) for k, v in tallies.items()}})
    if settings.out:
        made = made_by()
        Path(settings.out).write_text(
            f"# Fuzz\n\n{__doc__.split(chr(10))[0]}\n\n{markdown(tallies)}\n`python tests/benchmarks/fuzz.py "
            f"--minutes {settings.minutes:g} --seed {settings.seed}`, commit {made['commit']}, {made['machine']}\n"
        )


if __name__ == "__main__":
    run_command(main)
