"""Export: pictures a second from shards to a table, against the bare forward pass on tensors in memory.

    python tests/benchmarks/export.py --out results/benchmarks/export.json

Our side is ``pretrain.export`` with its tars, decoding, resizing and writing; the other side the same encoder's forward
pass over as many pictures in memory, in chunks of the same size, before and after ours. Both have the same cores, so
that decoding takes its time from encoding: the wanted share can be had where the forward pass takes much longer.

Pictures are stored as JPEGs, and decoded, at 9/8 of the input's side: ``shards --pictures decoded --side``.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export import Settings as Export
from pretrain.export import export
from pretrain.runtime.cpu import prepare_cpu
from pretrain.settings import Encoder

TARGET = 0.95
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass
class Settings:
    """Benchmark of export.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    encoders : dict of str to int
        timm models and the side of their input in pixels.
    items : int
        Pictures that are exported.
    pixels : int
        Side of the stored pictures.
    batch : int
        Pictures encoded at a time.
    clock : "wall" or "processor"
        Seconds on the clock, or those of this process, which say the same on a machine that is shared if there
        is one core: more have loader processes of their own.
    """

    out: str | None = None
    encoders: dict[str, int] = field(default_factory=lambda: {"test_byobnet": 64, "resnet18": 128, "resnet50": 224})
    items: int = 384
    pixels: int = 224
    batch: int = 64
    clock: Literal["wall", "processor"] = "wall"


@torch.no_grad()
def bare(settings: Settings, encoder: Encoder) -> float:
    """Pictures a second of the forward pass."""
    module = build_encoder(encoder).eval()
    shape = (settings.batch, 3, encoder.image_size, encoder.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    module.features(images)
    clock = CLOCKS[settings.clock]
    started = clock()
    for _ in range(settings.items // settings.batch):
        module.features(images)
    return settings.items // settings.batch * settings.batch / (clock() - started)


def measure(settings: Settings, name: str, size: int, shards: Path, out: Path) -> dict[str, Any]:
    encoder = Encoder(name=name, image_size=size)
    before = bare(settings, encoder)
    clock = CLOCKS[settings.clock]
    started = clock()
    info = export(Export(data=str(shards), out=str(out), batch=settings.batch, encoder=encoder))
    ours = info["count"] / (clock() - started)
    after = bare(settings, encoder)
    alone = (before + after) / 2
    rates = {"export_images_per_second": ours, "forward_images_per_second": alone}
    return {"image_size": size, "rates": rates, "forward_before_and_after": [before, after]}


def stored(world: Path, size: int, folder: Path) -> dict[str, Path]:
    """Shards of the same pictures by how they are stored."""
    decoded = folder / f"decoded-{size}"
    if not decoded.exists():
        form = {"side": size * 9 // 8, "pictures": "decoded", "workers": 1}
        write_shards(Shards(dataset=str(world / "dataset"), out=str(decoded), **form))
    return {"JPEG": world / "shards", "decoded": decoded}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    prepare_cpu()
    with tempfile.TemporaryDirectory() as folder:
        world = World(items=settings.items, users=100, requests=800, image_size=settings.pixels)
        made = make_world(world, Path(folder) / "world")
        found = {
            f"{name} at {size} px, {form}": measure(settings, name, size, shards, Path(folder) / f"{name}-{form}")
            for name, size in settings.encoders.items()
            for form, shards in stored(made, size, Path(folder)).items()
        }
    ratios = [
        Ratio(f"images a second, {name}", *one["rates"].values(), "forward pass", TARGET) for name, one in found.items()
    ]
    finish(settings, {"figures": found}, ratios, needed=any)


if __name__ == "__main__":
    run_command(main)
