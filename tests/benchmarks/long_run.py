"""Train, export and compare in a loop: does memory, or the number of files, processes or temporary files, grow?

    python tests/benchmarks/long_run.py --work /tmp/long --minutes 120 --out results/benchmarks/long_run.md

Every round runs the three commands on a small simulated shop, all in this one process, where whatever a command does
not give back stays, and removes what they made. After each round: the process's own memory (resident, without pages of
files), open files, threads, child processes, entries of shared memory, and files in the folder of temporary ones. The
slope of each over the rounds, by least squares with its 95 % interval, leaves out the first rounds, which load
libraries and fill caches.
"""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from report import heading
from scipy import stats

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from downstream import compare
from pretrain import export, train

SHOP = World(items=120, users=40, requests=600, slots=4, days=10, image_size=32, strength=2.5)
SHARED = Path("/dev/shm")
COUNTED = ("memory, MiB", "open files", "threads", "child processes", "shared memory", "temporary files")
TRAINING = (
    "--batch.rows 16 --encoder.image_size 32 --optim.precision fp32 --optim.steps 8 --evaluation.every 4 "
    "--evaluation.requests 50 --log_every 2 --batch.workers 1"
)
ROUND = (
    (train.main, f"--data {{w}}/shards --out {{o}}/run {TRAINING}"),
    (export.main, "--run {o}/run --data {w}/shards --out {o}/table"),
    (compare.main, "--config {w}/compare.yaml --out {o}/results"),
)


@dataclass(frozen=True)
class Settings:
    """How long.

    Attributes
    ----------
    work : str
        Folder for the shop and the results, and what was measured, which a later run of the same place adds to.
    minutes : float
        After which no further round starts.
    skipped : int
        Rounds at the start of each process that the slopes leave out.
    out : str, optional
        Markdown file of the table.
    """

    work: str
    minutes: float = 120
    skipped: int = 3
    out: str | None = None


def make_inputs(work: Path) -> None:
    """The shop, and the configuration of the comparison."""
    make_world(SHOP, work, requests_per_shard=64)
    config = {
        "dataset": str(work / "dataset"),
        "sources": {"ids": {}, "ours": {"table": str(work / "out" / "table")}},
        "main": "ours",
        "ctr_seeds": [0, 1],
        "training": {"optim": {"epochs": 1}},
        "bootstrap": {"resamples": 20},
        "cache": str(work / "out" / "cache"),
    }
    (work / "compare.yaml").write_text(yaml.safe_dump(config))


def one_round(work: Path) -> None:
    """Run the three commands, and remove what they made."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    for main, flags in ROUND:
        sys.argv, said = ["command", *flags.format(w=work, o=out).split()], io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            try:
                run_command(main)
            except SystemExit as end:
                if end.code:
                    raise UserError(f"{flags}: {said.getvalue()[-800:]}") from None
    shutil.rmtree(out)


def counted(temporary: Path) -> dict[str, float]:
    """What this process holds."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = (
        int(status["RssAnon"].split()[0]) / 1024,
        len(os.listdir("/proc/self/fd")),
        int(status["Threads"]),
        len(children),
        len(list(SHARED.iterdir())) if SHARED.exists() else 0,
        sum(1 for _ in temporary.rglob("*")),
    )
    return dict(zip(COUNTED, found, strict=True))


def slope(rounds: list[dict[str, float]], what: str, skipped: int) -> tuple[float, float]:
    """Growth a round, and half its 95 % interval; each process's rounds about their own mean."""
    x, y = [], []
    for process in sorted({one["process"] for one in rounds}):
        own = [one[what] for one in rounds if one["process"] == process][skipped:]
        x += (np.arange(len(own)) - (len(own) - 1) / 2).tolist()
        y += (np.array(own) - np.mean(own)).tolist() if own else []
    if len(x) < 4 or not any(y):
        return 0.0, 0.0
    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.stderr * stats.t.ppf(0.975, len(x) - 2))


def page(top: list[str], rounds: list[dict[str, float]], skipped: int) -> str:
    """The table, below its heading."""
    minutes = sum(one["seconds"] for one in rounds) / 60
    processes = len({one["process"] for one in rounds})
    lines = [
        *top,
        f"{len(rounds)} rounds in {minutes:.1f} minutes; processes, one after the other: {processes}; the slopes leave "
        f"out the first {skipped} rounds of each.",
        "",
        "| what | first counted round | last round | growth a round (95 % interval) |",
        "|---|---:|---:|---:|",
    ]
    for what in COUNTED:
        middle, half = slope(rounds, what, skipped)
        first = rounds[min(skipped, len(rounds) - 1)][what]
        shown = f"{middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f})"
        lines.append(f"| {what} | {first:,.1f} | {rounds[-1][what]:,.1f} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    work, until = Path(settings.work).absolute(), time.monotonic() + 60 * settings.minutes
    top = heading("Train, export and compare in a loop")  # with this command, before those of the rounds
    temporary = work / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    if not (work / "compare.yaml").exists():
        make_inputs(work)
    kept = work / "rounds.jsonl"
    rounds = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    process = max((one["process"] for one in rounds), default=-1) + 1
    while time.monotonic() < until:
        started = time.monotonic()
        one_round(work)
        rounds.append({"process": process, "seconds": time.monotonic() - started, **counted(temporary)})
        with kept.open("a") as file:
            file.write(json.dumps(rounds[-1]) + "\n")
        print(json.dumps(rounds[-1]), flush=True)
    text = page(top, rounds, settings.skipped)
    print(text)
    if settings.out:
        Path(settings.out).write_text(text)


if __name__ == "__main__":
    run_command(main)
