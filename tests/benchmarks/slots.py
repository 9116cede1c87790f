"""Each distinct picture encoded once, against encoding every slot as PixelRec's MODIN does: time of a training step.

    python tests/benchmarks/slots.py --out results/benchmarks/slots.json

Both sides take COURIER's step, forward and backward, on the same batches in memory. The other side has the picture of
every history and page slot, copies and all (but no padding), so it encodes as many pictures as there are slots; with
still batch norms its loss is ours. Wanted: a speed-up of 0.9 times slots over distinct images, at least.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from report import Ratio, finish
from torch import Tensor

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.data.stream import loader
from pretrain.encoder.image_encoder import build_encoder
from pretrain.runtime.cpu import keep_compiled_convolutions, share_cores
from pretrain.settings import Batch, Encoder
from pretrain.settings import Settings as Pretrain
from pretrain.training.state import build_objective
from pretrain.training.step import Step

TARGET = 0.9
SIDE = "slots over distinct images"


@dataclass
class Settings:
    """Benchmark of encoding distinct pictures.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    encoders : dict of str to int
        timm models and the side of their input in pixels.
    rows : int
        Requests a step.
    steps : int
        Steps of each side, in turns.
    """

    out: str | None = None
    encoders: dict[str, int] = field(default_factory=lambda: {"test_byobnet": 64, "resnet18": 64})
    rows: int = 32
    steps: int = 4


def every_slot(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a picture of its own for every slot that is not padding."""
    place, spread = [], {}
    for name in ("history", "page"):
        present = batch[name] >= 0
        spread[name] = torch.full_like(batch[name], -1)
        spread[name][present] = sum(map(len, place)) + torch.arange(int(present.sum()))
        place.append(batch[name][present])
    images = torch.cat(place)
    return {**batch, **spread, "images": batch["images"][images], "image_item": batch["image_item"][images]}


def measure(settings: Settings, name: str, size: int, shards: Path) -> dict[str, float]:
    batches = iter(loader(shards, "requests", Batch(rows=settings.rows, workers=0), size, 0))
    encoder = build_encoder(Encoder(name=name, image_size=size, freeze_norm=True)).train()
    step = Step(encoder, build_objective(Pretrain(), encoder))
    seconds, pictures, apart = {"distinct": 0.0, "slots": 0.0}, {"distinct": 0, "slots": 0}, 0.0
    for number in range(1 + settings.steps):  # the first is not counted
        batch, losses = next(batches), []
        for side, given in (("distinct", batch), ("slots", every_slot(batch))):
            started = time.perf_counter()
            loss = sum(term.loss for term in step.forward(given)[0].values())
            step.backward(loss)
            encoder.zero_grad()
            if number:
                seconds[side] += time.perf_counter() - started
                pictures[side] += len(given["images"])
            losses.append(float(loss.detach()))
        apart = max(apart, abs(losses[1] / losses[0] - 1))
    if apart > 1e-4:
        raise UserError(f"the two sides have other losses, {apart:.1e} apart")
    fewer, faster = pictures["slots"] / pictures["distinct"], seconds["slots"] / seconds["distinct"]
    means = {f"{side}_a_step": count / settings.steps for side, count in pictures.items()}
    times = {f"{side}_seconds_a_step": total / settings.steps for side, total in seconds.items()}
    ratios = {"slots_over_distinct": fewer, "speed_up": faster}
    return {"image_size": size, **means, **times, **ratios, "largest_difference_of_losses": apart}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    share_cores()
    keep_compiled_convolutions()
    with tempfile.TemporaryDirectory() as folder:
        shards = make_world(World(items=600, users=100, requests=3000), folder) / "shards"
        found = {name: measure(settings, name, size, shards) for name, size in settings.encoders.items()}
    ratios = [
        Ratio(f"speed-up, {name} at {one['image_size']} px", one["speed_up"], one["slots_over_distinct"], SIDE, TARGET)
        for name, one in found.items()
    ]
    finish(settings, {"figures": found}, ratios)


if __name__ == "__main__":
    run_command(main)
