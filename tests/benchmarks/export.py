"""Export: pictures a second from shards to a table, against the bare forward pass on tensors in memory.

    python tests/benchmarks/export.py --out results/benchmarks/export.json

Our side is ``pretrain.export`` with its tars, decoding, resizing and writing; the other side the same encoder's forward
pass over as many pictures in memory, chunk after chunk on all cores, before and after ours.

Decoding takes its time from encoding, on the same cores, so there is a bound, too: bare decoding and resizing of the
same bytes in memory, a thread on each core, and then the bare forward pass, whichever is faster of a chunk on all
cores and a chunk on each.

Pictures are stored as JPEGs, decoded at 9/8 of the input's side, which leaves training room for its crops, and decoded
at the input's side, which export need not resize: ``shards --pictures decoded --side``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from report import Ratio, finish
from rich.console import Console
from torch import Tensor

from data_tools.common.cli import parse_settings, run_command
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.data.transforms import plain_transform
from pretrain.encoder.image_encoder import ImageEncoder, build_encoder
from pretrain.export import Settings as Export
from pretrain.export import export
from pretrain.runtime.cpu import one_core_a_thread, own_cores, prepare_cpu
from pretrain.settings import Encoder

TARGET, TARGETS = 0.97, {"test_byobnet": 0.9}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
DECODED = 1024  # pictures, at most, that are decoded for the bound


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
        Seconds on the clock, or those of this process, which say the same on a machine that is shared if there is one
        core.
    folder : str or null
        Where the pictures are kept for the next run, or found; null makes them anew.
    """

    out: str | None = None
    encoders: dict[str, int] = field(default_factory=lambda: {"test_byobnet": 64, "resnet18": 128, "resnet50": 224})
    items: int = 384
    pixels: int = 224
    batch: int = 64
    clock: Literal["wall", "processor"] = "wall"
    folder: str | None = None


def on_each_core(work: Callable[[Any], object], chunks: Sequence[Any]) -> None:
    with one_core_a_thread(), ThreadPoolExecutor(own_cores()) as pool:
        list(pool.map(work, chunks))


def one_by_one(work: Callable[[Any], object], chunks: Sequence[Any]) -> None:
    for chunk in chunks:
        work(chunk)


class Bare:
    """The forward pass of as many pictures as are exported, in memory.

    Pictures have their channels last, as decoders and resizers leave them.
    """

    def __init__(self, settings: Settings, encoder: ImageEncoder, size: int) -> None:
        shape = (settings.batch, size, size, 3)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        self.encoder, self.times = encoder, settings.items // settings.batch
        self.clock = CLOCKS[settings.clock]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.features(images)

    def rate(self, way: Callable[[Callable[[Tensor], object], Sequence[Tensor]], None]) -> float:
        """Pictures a second."""
        way(self.forward, [self.images] * own_cores())
        started = self.clock()
        way(self.forward, [self.images] * self.times)
        return self.times * len(self.images) / (self.clock() - started)


def decoding(settings: Settings, shards: Path, size: int) -> float:
    """Pictures a second that all cores decode and resize, from bytes in memory."""
    transform, opened = plain_transform(size), open_shards(shards)
    pictures = opened.pictures("items", 0)
    data = [pictures[one["item"]] for one in opened.records("items", 0)[:DECODED]]
    chunks = [data[start : start + settings.batch] for start in range(0, len(data), settings.batch)]

    def decode(chunk: list[bytes]) -> Tensor:
        return transform(map(transform.decode, chunk))

    on_each_core(decode, chunks[: own_cores()])
    clock = CLOCKS[settings.clock]
    started = clock()
    on_each_core(decode, chunks)
    return len(data) / (clock() - started)


def measure(settings: Settings, name: str, size: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Rates of an encoder by how pictures are stored."""
    encoder, forms, clock = Encoder(name=name, image_size=size), stored(settings, size, folder), CLOCKS[settings.clock]
    bare, ours = Bare(settings, build_encoder(encoder).eval(), size), {}
    before = bare.rate(one_by_one)
    with tempfile.TemporaryDirectory() as tables:
        for form, shards in forms.items():
            started = clock()
            info = export(Export(data=str(shards), out=f"{tables}/{form}", batch=settings.batch, encoder=encoder))
            ours[form] = info["count"] / (clock() - started)
    after = bare.rate(one_by_one)
    alone, apart = (before + after) / 2, bare.rate(on_each_core)
    decoded = {form: decoding(settings, shards, size) for form, shards in forms.items()}
    return {
        f"{name} at {size} px, {form}": {
            "image_size": size,
            "rates": {"export_images_per_second": ours[form], "forward_images_per_second": alone},
            "forward_before_and_after": [before, after],
            "forward_a_chunk_on_each_core_images_per_second": apart,
            "decoding_images_per_second": decoded[form],
            "bound_images_per_second": 1 / (1 / max(alone, apart) + 1 / decoded[form]),
        }
        for form in forms
    }


def stored(settings: Settings, size: int, folder: Path) -> dict[str, Path]:
    """Shards of the same pictures by how they are stored."""
    world = folder / "world"
    if not world.exists():
        make_world(World(items=settings.items, users=100, requests=800, image_size=settings.pixels), world)
    found = {"JPEG": world / "shards"}
    for side in (size * 9 // 8, size):
        found[f"decoded at {side} px"] = decoded = folder / f"decoded-{side}"
        if not decoded.exists():
            form = {"side": side, "pictures": "decoded", "workers": 1}
            write_shards(Shards(dataset=str(world / "dataset"), out=str(decoded), **form))
    return found


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    prepare_cpu()
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = Path(settings.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        for name, size in settings.encoders.items():
            found |= measure(settings, name, size, folder)
    say = Console(highlight=False, soft_wrap=True).print
    ratios = []
    for name, one in found.items():
        apart, decoded = one["forward_a_chunk_on_each_core_images_per_second"], one["decoding_images_per_second"]
        say(f"{name}: decoding alone {decoded:,.0f} images/s, forward pass of a chunk on each core {apart:,.0f}")
        rates, what = one["rates"], f"images a second, {name}"
        ratios.append(Ratio(what, *rates.values(), "forward pass", TARGETS.get(name.split()[0], TARGET)))
        ratios.append(Ratio(what, rates["export_images_per_second"], one["bound_images_per_second"], "the bound"))
    finish(settings, {"figures": found}, ratios, needed=any)


if __name__ == "__main__":
    run_command(main)
