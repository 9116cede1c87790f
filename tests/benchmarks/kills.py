"""Every command killed with SIGKILL at random moments and run again: is the result that of an uninterrupted run?

    python tests/benchmarks/kills.py --work /tmp/kills --kills 50 --out results/benchmarks/kills.md

A small simulated shop is made once. Each stage runs once without a fault; then, again and again, it is killed after a
random part of that time and the same command is run once more. Compared are the files of the result, bit for bit (JSON
without times and paths of the machine), and what stands beside them: no lock, scratch folder, temporary file, shared
memory or process may be left. Stages run in children of one process that has loaded the libraries, but for training on
two processes, which accelerate launches. A kill that comes after the result was complete counts as such. What was found
is kept in --work, where a later run adds to it.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import digest, read_json, write_json
from data_tools.common.provenance import made_by
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World

SHOP = World(items=120, users=40, requests=600, slots=4, days=10, image_size=32, strength=2.5)
TRAINING = (
    "--resume --batch.rows 16 --encoder.image_size 32 --optim.precision fp32 --optim.steps 8 "
    "--checkpoint_every 2 --evaluation.every 4 --evaluation.requests 50 --log_every 2"
)
# What a result says of the machine, the moment and the place, and not of the input.
PASSING = ("seconds", "images_per_second", "commit", "versions", "machine", "finished", "started", "made", "speed")
SHARED = Path("/dev/shm")
PATIENCE = 300  # seconds for one run of a stage


@dataclass(frozen=True)
class Settings:
    """What is killed, and how often.

    Attributes
    ----------
    work : str
        Folder for the shop, the results (about 200 MB) and what was found so far.
    kills : int
        Of each stage.
    minutes : float
        In all; each stage has an equal part, and stops before its number of kills when that is over.
    stages : list of str
        All by default.
    seed : int
        Of the moments.
    out : str, optional
        Markdown file of the table.
    """

    work: str
    kills: int = 50
    minutes: float = 600
    stages: list[str] = field(default_factory=list)
    seed: int = 0
    out: str | None = None


@dataclass(frozen=True)
class Stage:
    """A command, and where its result is.

    Attributes
    ----------
    command : str
        Module and arguments; ``{w}`` is the folder of the shop, ``{o}`` that of the results.
    result : tuple of str
        Globs, below ``{o}``, of files that have to be the same; all by default.
    processes : int
    """

    command: str
    result: tuple[str, ...] = ("**/*",)
    processes: int = 1


STAGES = {
    "prepare": Stage(
        "data_tools.prepare --impressions {w}/log.csv --items {w}/items.csv --images {w}/dataset --out {o}/dataset"
    ),
    "shards": Stage("data_tools.shards --dataset {w}/dataset --out {o}/shards --requests_per_shard 32 --workers 2"),
    "train": Stage(
        f"pretrain.train --data {{w}}/shards --out {{o}}/run {TRAINING} --batch.workers 0", ("run/*.safetensors",)
    ),
    "train, 2 processes": Stage(
        f"pretrain.train --data {{w}}/shards --out {{o}}/run {TRAINING} --batch.workers 1",
        ("run/*.safetensors",),
        2,
    ),
    "export": Stage("pretrain.export --run {w}/run --data {w}/shards --out {o}/table"),
    "convert_table": Stage("data_tools.convert_table --table {w}/planted --out {o}/table.npz"),
    "downstream.train": Stage(
        "downstream.train --dataset {w}/dataset --table {w}/planted --out {o}/ctr --optim.epochs 2",
        ("ctr/model.safetensors", "ctr/test_scores.npy", "ctr/vocabulary.parquet"),
    ),
    "compare": Stage(
        "downstream.compare --config {w}/compare.yaml --out {o}/results --workers 2", ("results/figures.json",)
    ),
    "store": Stage("downstream.store --table {w}/planted --out {o}/store --parts 4"),
    "score": Stage("downstream.score --run {w}/ctr --log {w}/log.csv --out {o}/scores.parquet"),
}


def run_here(command: list[str]) -> None:
    """Run a command in this process, quietly, and end with it."""
    os.setsid()
    sys.argv, said, status = command, io.StringIO(), 0
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            run_command(importlib.import_module(command[0]).main)
        except SystemExit as end:
            status = end.code or 0
        except BaseException as error:
            status = 70
            said.write(f"{type(error).__name__}: {error}")
    if status:
        Path(os.environ["KILLS_SAID"]).write_text(said.getvalue())
    os._exit(status if isinstance(status, int) else 1)


def start(stage: Stage, work: Path, out: Path) -> tuple[int, Callable[[], int | None]]:
    """Start a stage; its process id, and a function that gives its exit status once it has ended."""
    command = stage.command.format(w=work, o=out).split()
    os.environ["KILLS_SAID"] = str(work / "said.txt")
    if stage.processes > 1:
        # With --cpu, accelerate would start one process whatever --num_processes says.
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(stage.processes)]
        launch += ["--main_process_port", str(random.randint(20000, 60000)), "-m", *command]
        with open(work / "said.txt", "w") as said:
            child = subprocess.Popen(
                [sys.executable, *launch], stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        return child.pid, child.poll
    if not (child := os.fork()):
        run_here(command)

    def ended() -> int | None:
        found, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    return child, ended


def wait(ended: Callable[[], int | None], seconds: float) -> int | None:
    """The exit status, or None where it has not ended by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (status := ended()) is not None:
            return status
        time.sleep(0.005)
    return None


def left_running(group: int, out: Path) -> list[int]:
    """Processes of a session, or that name a folder, that still run a while after the session's leader ended."""
    for _ in range(1200):
        found = []
        for one in Path("/proc").iterdir():
            if one.name.isdigit():
                try:
                    parts = (one / "stat").read_text().rpartition(")")[2].split()
                    named = str(out).encode() in (one / "cmdline").read_bytes()  # a launcher's have their own sessions
                except OSError:
                    continue
                if (int(parts[3]) == group or named) and parts[0] != "Z":
                    found.append(int(one.name))
        if not found:
            return []
        time.sleep(0.05)
    return found


def lasting(value: object) -> object:
    """What JSON says without what passes."""
    if isinstance(value, dict):
        return {key: lasting(one) for key, one in value.items() if key not in PASSING}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def fingerprint(stage: Stage, out: Path) -> dict[str, str]:
    """File of the result -> digest."""
    found = {}
    for path in sorted({one for pattern in stage.result for one in out.glob(pattern) if one.is_file()}):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            found[name] = json.dumps(lasting(json.loads(path.read_text())), sort_keys=True).replace(str(out), "OUT")
        else:
            found[name] = digest([path])
    return found


def standing(out: Path) -> set[str]:
    """All that stands in the folder of the results, and beside what is in it, hidden or not."""
    return {one.relative_to(out).as_posix() for one in out.rglob("*") if "events.out" not in one.name}


def shared() -> set[str]:
    return {one.name for one in SHARED.iterdir()} if SHARED.exists() else set()


def one_kill(stage: Stage, work: Path, whole: dict, after: float) -> str:
    """Kill a stage, run it again, and say how that ended."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    before = shared()
    child, ended = start(stage, work, out)
    status = wait(ended, after)
    if status is None:
        os.kill(child, signal.SIGKILL)
        wait(ended, 10)
    if running := left_running(child, out):
        for one in running:
            os.kill(one, signal.SIGKILL)
        return "processes stayed behind"
    complete = bool(whole["files"]) and fingerprint(stage, out) == whole["files"] and standing(out) == whole["standing"]
    if not complete:
        child, ended = start(stage, work, out)
        if (status := wait(ended, PATIENCE)) is None:
            os.killpg(child, signal.SIGKILL)
            return "the second run hung"
        said = (work / "said.txt").read_text().strip().splitlines() if (work / "said.txt").exists() else []
        if status and fingerprint(stage, out) != whole["files"]:
            return f"the second run failed: {' '.join(said)[-160:]}"
    if (files := fingerprint(stage, out)) != whole["files"]:
        return (
            f"another result: {sorted(name for name in whole['files'] if files.get(name) != whole['files'][name])[:2]}"
        )
    if more := standing(out) - whole["standing"]:
        return f"left behind: {sorted(more)[:3]}"
    until = time.monotonic() + 10  # other programs' semaphores come and go
    while (more := shared() - before) and time.monotonic() < until:
        time.sleep(0.1)
    if more:
        return f"shared memory left behind: {sorted(more)[:2]}"
    return "complete before the kill" if complete else "same result"


def whole_run(stage: Stage, work: Path) -> dict:
    """Files, surroundings and seconds of an uninterrupted run."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    started = time.monotonic()
    _, ended = start(stage, work, out)
    if (status := wait(ended, PATIENCE)) != 0:
        raise UserError(f"{stage.command}: exit status {status}: {(work / 'said.txt').read_text()[-500:]}")
    if stage.processes > 1 and (found := read_json(out / "run/run.json")["processes"]) != stage.processes:
        raise UserError(f"{stage.command} ran on {found} process, not on {stage.processes}")
    return {"seconds": time.monotonic() - started, "files": fingerprint(stage, out), "standing": standing(out)}


def make_inputs(work: Path) -> None:
    """The shop, and what the later stages need of the earlier ones."""
    pl = importlib.import_module("polars")  # in a child alone: its threads do not outlive a fork
    make_world(SHOP, work, requests_per_shard=64)
    dataset = work / "dataset"
    log = pl.read_parquet(dataset / "impressions.parquet")
    log.drop("user", "item", "request", "clicks_before", "split").write_csv(work / "log.csv")
    pl.read_parquet(dataset / "items.parquet").select("item_id", "image").write_csv(work / "items.csv")
    sources = {"ids": {}, "planted": {"table": str(work / "planted")}}
    config = {"dataset": str(dataset), "sources": sources, "main": "planted", "ctr_seeds": [0, 1]}
    config |= {
        "training": {"optim": {"epochs": 1}},
        "bootstrap": {"resamples": 20},
        "cache": str(work / "out" / "cache"),
    }
    (work / "compare.yaml").write_text(yaml.safe_dump(config))


def in_child(make: Callable[[], None]) -> None:
    if not (child := os.fork()):
        try:
            with redirect_stdout(io.StringIO()):
                make()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def prepare_shop(work: Path) -> None:
    """Make what is not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "compare.yaml").exists():
        in_child(lambda: make_inputs(work))
    for name, stage, made in (("run", "train", "run"), ("ctr", "downstream.train", "ctr")):
        if not (work / name).exists():
            whole_run(STAGES[stage], work)
            (work / "out" / made).rename(work / name)


def markdown(rounds: dict[str, Counter], whole: dict[str, dict]) -> str:
    """The table: a line a stage."""
    columns = ("same result", "complete before the kill")
    lines = [
        "| stage | seconds, uninterrupted | kills | same result | complete before the kill | other |",
        "|---|" + "---:|" * 5,
    ]
    for name, found in rounds.items():
        other = "; ".join(f"{what} ({count})" for what, count in found.items() if what not in columns) or "0"
        numbers = [f"{whole[name]['seconds']:.1f}", str(found.total()), *(str(found[one]) for one in columns)]
        lines.append(f"| {name} | {' | '.join(numbers)} | {other} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if unknown := set(settings.stages) - set(STAGES):
        raise UserError(f"no stage is called {min(unknown)!r}; choose from {', '.join(STAGES)}")
    work, moments = Path(settings.work).absolute(), random.Random(settings.seed)
    names = settings.stages or list(STAGES)
    for name in names:
        importlib.import_module(STAGES[name].command.split()[0])
    importlib.import_module("pretrain.train"), importlib.import_module("downstream.train")
    prepare_shop(work)
    kept = work / "found.json"
    rounds = {name: Counter(found) for name, found in (read_json(kept) if kept.exists() else {}).items()}
    whole = {}
    for name in names:
        whole[name] = whole_run(STAGES[name], work)
        rounds.setdefault(name, Counter())
        until = time.monotonic() + 60 * settings.minutes / len(names)
        while rounds[name].total() < settings.kills and time.monotonic() < until:
            after = moments.uniform(0, whole[name]["seconds"])
            rounds[name][one_kill(STAGES[name], work, whole[name], after)] += 1
            write_json(kept, rounds)
        print(markdown({name: rounds[name] for name in names if name in whole}, whole), flush=True)
    if settings.out:
        made, table = made_by(), markdown({name: rounds[name] for name in names}, whole)
        Path(settings.out).write_text(
            f"# Kills\n\n{__doc__.split(chr(10))[0]}\n\n{table}\n`python tests/benchmarks/kills.py "
            f"--kills {settings.kills} --minutes {settings.minutes:g} --seed {settings.seed}`, commit "
            f"{made['commit']}, {made['machine']}\n"
        )


if __name__ == "__main__":
    run_command(main)
