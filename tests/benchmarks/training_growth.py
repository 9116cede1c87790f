"""Training as the log grows: time a step and peak memory with N and with ten times as many requests.

    python tests/benchmarks/training_growth.py --out results/benchmarks/training_growth.json

Same catalogue, encoder, batch and validation sample; each side trains in a process of its own, whose peak memory (and
that of its loader process) is what the system reports. Steps are timed after the first ones. Wanted: a step's time
(so that cost is linear in requests) and the memory at most 1.1 times.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.files import read_json
from data_tools.common.system import peak_memory
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain import train as training
from pretrain.settings import Batch, Evaluation, Optim
from pretrain.settings import Settings as Pretrain
from pretrain.training.journal import Journal

TARGET = 1.1
START = 5
GROWN = {"seconds an image": "seconds_an_image", "MB, training": "training_mb", "MB, loader": "loader_mb"}


@dataclass
class Settings:
    """Benchmark of growing logs.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    requests : int
        Page views of the smaller log.
    times : int
        How many times that the larger one has.
    rows : int
        Requests a step.
    steps : int
        Steps that are timed.
    shards : str or null
        Set by the program for its own processes; null runs both sides.
    """

    out: str | None = None
    requests: int = 4000
    times: int = 10
    rows: int = 64
    steps: int = 40
    shards: str | None = None


def measure(settings: Settings) -> dict[str, float]:
    """Seconds a step and an image, and the peak memory of the process and of its loader."""
    seen: list[tuple[float, int]] = []

    class Timed(Journal):
        def add(self, terms: Any, batch: dict[str, Any], waited: float) -> None:
            super().add(terms, batch, waited)
            seen.append((time.perf_counter(), len(batch["images"])))

    training.Journal = Timed
    steps = START + settings.steps
    with tempfile.TemporaryDirectory() as folder:
        training.train(
            Pretrain(
                data=settings.shards,
                out=f"{folder}/run",
                checkpoint_every=steps,
                batch=Batch(rows=settings.rows),
                optim=Optim(steps=steps, precision="fp32"),
                evaluation=Evaluation(every=steps, requests=300),
            )
        )
    seconds = seen[-1][0] - seen[START - 1][0]
    images = sum(count for _, count in seen[START:])
    peaks = {
        "training_mb": peak_memory()["process"] * 2**20 / 1e6,
        "loader_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
    }
    return {"seconds_a_step": seconds / settings.steps, "seconds_an_image": seconds / images, **peaks}


def in_own_process(settings: Settings, shards: Path) -> dict[str, float]:
    flags = ["--rows", str(settings.rows), "--steps", str(settings.steps), "--shards", str(shards)]
    run = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if settings.shards:
        print(json.dumps(measure(settings)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, requests in (("small", settings.requests), ("large", settings.times * settings.requests)):
            world = World(items=600, users=requests // 10, requests=requests)
            shards = make_world(world, Path(folder) / name) / "shards"
            listed = read_json(shards / "index.json")["requests"]["train"]
            count = sum(shard["requests"] for shard in listed)
            found[name] = {"training_requests": count, **in_own_process(settings, shards)}
    say = Console(highlight=False, soft_wrap=True).print
    for name, figures in found.items():
        say(
            f"{name}: {figures['training_requests']:,} requests, {figures['seconds_a_step']:.3f} s a step "
            f"({1e3 * figures['seconds_an_image']:.2f} ms an image), {figures['training_mb']:,.0f} MB, loader "
            f"{figures['loader_mb']:,.0f} MB"
        )
    side = f"1/{settings.times} of the requests"
    ratios = [
        Ratio(what, found["large"][name], found["small"][name], side, TARGET, at_most=True)
        for what, name in GROWN.items()
    ]
    finish(settings, {"figures": found}, ratios)


if __name__ == "__main__":
    run_command(main)
