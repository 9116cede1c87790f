"""Gradient caching at eight times the batch: time an image and peak memory against the whole batch at once.

    python tests/benchmarks/gradient_caching.py --out results/benchmarks/gradient_caching.json

Each side runs in a process of its own, on the same pictures and weights: SimCLR's step on tensors in memory. Memory is
what the step adds: on a GPU what torch allocates, on a CPU the process's peak above what stands before the first step.
The aims: at most 1.35 times the time an image, and at most 1/4 of the memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.system import peak_memory
from pretrain.encoder.image_encoder import build_encoder
from pretrain.settings import Encoder, Objective
from pretrain.settings import Settings as Pretrain
from pretrain.training.state import build_objective
from pretrain.training.step import Step

MOST_TIME, MOST_MEMORY = 1.35, 0.25


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    name : timm model
    image_size : pixels of each side
    batch : pictures that are encoded at a time with gradient caching; the whole batch is eight times as many
    repeats : steps that are timed; the fastest counts
    micro_batch : set by the program for its own processes; -1 runs both sides
    out : file of the figures; none by default
    """

    name: str = "resnet18"
    image_size: int = 96
    batch: int = 64
    repeats: int = 3
    micro_batch: int = -1
    out: str | None = None


def resident() -> int:
    """Bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(settings: Settings) -> dict[str, float]:
    """Seconds an image, bytes the step adds, and the loss, of one side."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    count = 8 * settings.batch
    encoder = build_encoder(Encoder(name=settings.name, image_size=settings.image_size, freeze_norm=True)).to(device)
    made = Pretrain(objective=Objective(name="simclr"))
    step = Step(encoder.train(), build_objective(made, encoder), settings.micro_batch)
    images = torch.randint(0, 256, (count, 3, settings.image_size, settings.image_size), dtype=torch.uint8)
    batch = {"images": images.to(device), "image_item": torch.arange(count // 2, device=device).repeat(2)}
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, seconds, loss = resident(), [], torch.zeros(())
    for _ in range(settings.repeats):
        encoder.zero_grad(set_to_none=False)
        started = time.perf_counter()
        loss = sum(term.loss for term in step.forward(batch)[0].values())
        step.backward(loss)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = peak_memory()["process"] * 2**20 - before
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"seconds_an_image": min(seconds) / count, "bytes": peak, "loss": float(loss.detach())}


def in_own_process(settings: Settings, micro_batch: int) -> dict[str, float]:
    """What :func:`measure` finds in a process of its own."""
    chosen = asdict(replace(settings, micro_batch=micro_batch, out=None))
    flags = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]
    run = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if settings.micro_batch >= 0:
        print(json.dumps(measure(settings)))
        return
    whole, cached = in_own_process(settings, 0), in_own_process(settings, settings.batch)
    side = f"{8 * settings.batch} pictures at once"
    ratios = [
        Ratio(f"{what}, {settings.batch} at a time", cached[name], whole[name], side, most, at_most=True)
        for what, name, most in (("seconds an image", "seconds_an_image", MOST_TIME), ("bytes", "bytes", MOST_MEMORY))
    ]
    finish(settings, {"figures": {"whole": whole, "cached": cached}}, ratios)


if __name__ == "__main__":
    run_command(main)
