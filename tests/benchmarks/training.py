"""The whole training step: distinct images a second against the bare encoder's forward and backward pass.

    python tests/benchmarks/training.py --out results/benchmarks/training.json

Our side is ``pretrain.train`` itself (COURIER, with its loader, log lines, clipping and optimiser); its first steps,
in which it starts, and its validations do not count. The other side is the same encoder's forward and backward pass on
the distinct pictures of the same batches, in memory, in the same precision, once before and once after ours. Both have
the same cores, so that reading and augmenting takes its time from training: the wanted share can be had where an
image's forward and backward pass takes at least nine times as long. What the loader takes alone is measured, too.

Pictures are stored as JPEGs of twice the input's side, and decoded, at 9/8 of it: ``shards --pictures decoded --side``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from report import Ratio, finish
from rich.console import Console
from torch import Tensor

from data_tools.common.cli import parse_settings, run_command
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain import train as training
from pretrain.data.stream import loader
from pretrain.encoder.image_encoder import build_encoder
from pretrain.runtime.cpu import prepare_cpu
from pretrain.settings import Batch, Encoder, Evaluation, Optim
from pretrain.settings import Settings as Pretrain
from pretrain.training.journal import Journal

TARGET = 0.9
BARE = "forward and backward pass"
START = 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass
class Settings:
    """Benchmark of the training step.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    encoders : dict of str to int
        timm models and the side of their input in pixels; pictures are stored at twice that.
    precision : str
        Of both sides.
    rows : int
        Requests a step.
    steps : int
        Steps that count.
    clock : "wall" or "processor"
        Seconds on the clock, or those of this process, which say the same on a machine that is shared if there
        is one core: more have loader processes of their own.
    """

    out: str | None = None
    encoders: dict[str, int] = field(default_factory=lambda: {"test_byobnet": 64, "resnet18": 96})
    precision: str = "fp32"
    rows: int = 64
    steps: int = 12
    clock: Literal["wall", "processor"] = "wall"


def bare(pretrain: Pretrain, batches: list[Tensor], clock: Callable[[], float]) -> float:
    """Seconds an image of the encoder alone, the first batches not counted."""
    torch.manual_seed(0)
    encoder = build_encoder(pretrain.encoder).train()
    started = 0.0
    for number, images in enumerate(batches):
        if number == START:
            started = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=pretrain.optim.precision == "bf16"):
            loss = encoder(images).float().square().mean()
        loss.backward()
        encoder.zero_grad()
    return (clock() - started) / sum(map(len, batches[START:]))


def ours(pretrain: Pretrain, clock: Callable[[], float]) -> float:
    """Seconds an image of training."""
    seen: list[tuple[float, int]] = []

    class Timed(Journal):
        def add(self, terms: Any, batch: dict[str, Tensor], waited: float) -> None:
            super().add(terms, batch, waited)
            seen.append((clock(), len(batch["images"])))

    training.Journal = Timed
    training.train(pretrain)
    return (seen[-1][0] - seen[START - 1][0]) / sum(images for _, images in seen[START:])


def loading(pretrain: Pretrain) -> tuple[float, list[Tensor]]:
    """Processor seconds an image of the loader alone, and the pictures of training's batches."""
    alone = replace(pretrain.batch, workers=0)
    batches = iter(loader(pretrain.data, "requests", alone, pretrain.encoder.image_size, pretrain.seed))
    found = [next(batches)["images"]]
    started = time.process_time()
    found += [batch["images"] for batch in islice(batches, pretrain.optim.steps - 1)]
    return (time.process_time() - started) / sum(map(len, found[1:])), found


def stored(size: int, folder: Path) -> dict[str, Path]:
    """Shards of the same pictures by how they are stored."""
    world = make_world(World(items=600, users=400, requests=3000, image_size=2 * size), folder / f"world-{size}")
    side, decoded = size * 9 // 8, folder / f"decoded-{size}"
    if not decoded.exists():
        write_shards(Shards(dataset=str(world / "dataset"), out=str(decoded), side=side, pictures="decoded", workers=1))
    return {"JPEG": world / "shards", "decoded": decoded}


def measure(settings: Settings, name: str, size: int, shards: Path, out: Path) -> dict[str, float]:
    steps = START + settings.steps
    pretrain = Pretrain(
        data=str(shards),
        out=str(out),
        checkpoint_every=steps,
        encoder=Encoder(name=name, image_size=size),
        batch=Batch(rows=settings.rows),
        optim=Optim(steps=steps, precision=settings.precision),
        evaluation=Evaluation(every=steps, requests=20),
    )
    load, batches = loading(pretrain)
    clock = CLOCKS[settings.clock]
    first = bare(pretrain, batches, clock)
    full = ours(pretrain, clock)
    alone = [first, bare(pretrain, batches, clock)]
    mean = sum(alone) / 2
    return {
        "image_size": size,
        "images_a_batch": sum(map(len, batches)) / len(batches),
        "training_images_per_second": 1 / full,
        "bare_images_per_second": 1 / mean,
        "bare_before_and_after": [1 / seconds for seconds in alone],
        "loading_images_per_second": 1 / load,
        "ratio_that_loading_allows": mean / (mean + load),
    }


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    prepare_cpu()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            f"{name} at {size} px, {form}": measure(settings, name, size, shards, Path(folder, f"{name}-{form}"))
            for name, size in settings.encoders.items()
            for form, shards in stored(size, Path(folder)).items()
        }
    say = Console(highlight=False, soft_wrap=True).print
    for name, figures in found.items():
        rate, allowed = figures["loading_images_per_second"], figures["ratio_that_loading_allows"]
        say(f"{name}: loading alone {rate:,.0f} images/s, allows {allowed:.3f}")
    rates = ("training_images_per_second", "bare_images_per_second")
    ratios = [
        Ratio(f"images a second, {name}", *(one[rate] for rate in rates), BARE, TARGET) for name, one in found.items()
    ]
    finish(settings, {"figures": found}, ratios, needed=any)


if __name__ == "__main__":
    run_command(main)
