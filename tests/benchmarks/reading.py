"""Reading shards: decoded and augmented images a second and core, against a bare loop; and scaled decoding.

    python tests/benchmarks/reading.py --out results/benchmarks/reading.json

Our side is the training loader, one on each core at once: tables of requests and places of pictures from disk, batches
of requests, each distinct picture decoded and augmented once, stacked; with popular pictures decoded again, and with
them kept. The other side is a loop over the same pictures' bytes, in memory and in the same order, with Pillow's
decoder and the same transforms: nothing but what has to be done. Seconds are those of the processor, so that others on
the machine do not count.

Scaled decoding: JPEGs of 1600 pixels, made here, decoded whole or at the scale that the input needs, then resized.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import Ratio, finish
from rich.console import Console
from torchvision.transforms import v2

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.simulation.make import make_world
from data_tools.simulation.render import CATEGORIES, COLOURS, CUTS, PATTERNS, encode, render
from data_tools.simulation.settings import World
from pretrain.data.collate import items_of
from pretrain.data.stream import loader
from pretrain.data.transforms import plain_transform
from pretrain.settings import Batch

TARGET = 0.95
BATCH = Batch(rows=256, workers=0, colour_jitter=0.2, cache_mb=0)


@dataclass
class Settings:
    """Benchmark of reading shards.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    pixels : int
        Side of the stored pictures.
    image_size : int
        Side of the encoder's input.
    batches : int
        Batches read by each side, turn and turn about.
    large : int
        Pictures of 1600 pixels.
    """

    out: str | None = None
    pixels: int = 224
    image_size: int = 128
    batches: int = 12
    large: int = 24


def decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def bare_transform(image_size: int) -> v2.Transform:
    """The training transform, from torchvision alone."""
    crop = v2.RandomResizedCrop(image_size, scale=(BATCH.crop_scale, 1.0), antialias=True)
    strength = BATCH.colour_jitter
    jitter = v2.ColorJitter(strength, strength, strength, strength / 4)
    return v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip(), jitter])


def reading(settings: Settings, shards: Path) -> dict[str, Any]:
    """Images a processor second of both sides, a batch of each in turn."""
    arguments = (shards, "requests", BATCH, settings.image_size, 0)
    batches = iter(loader(*arguments))
    keeping = iter(loader(shards, "requests", replace(BATCH, cache_mb=256), settings.image_size, 0))
    encoded = loader(*arguments).dataset
    encoded.collate = lambda batch: batch
    transform = bare_transform(settings.image_size)
    next(batches)  # all start warm
    next(keeping)
    seconds: dict[str, list[float]] = {"ours": [], "popular kept": [], "bare": []}
    count = 0
    for images, requests in islice(encoded, 1, 1 + settings.batches):
        distinct = dict.fromkeys(item for record in requests for item in items_of(record))
        pictures = [images[item] for item in distinct]
        start = time.process_time()
        batch = next(batches)
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        next(keeping)
        seconds["popular kept"].append(time.process_time() - start)
        start = time.process_time()
        for data in pictures:
            transform(decode(data))
        seconds["bare"].append(time.process_time() - start)
        count += len(pictures)
        if len(pictures) != len(batch["images"]):
            raise UserError("the two sides read other pictures")
    return {"images": count, "seconds_by_batch": seconds}


def on_every_core(settings: Settings, shards: Path) -> dict[str, Any]:
    """:func:`reading` in as many processes as there are cores, all together."""
    cores = len(os.sched_getaffinity(0))
    # Not forked: threads of this process may hold locks.
    with multiprocessing.get_context("spawn").Pool(cores, torch.set_num_threads, (1,)) as pool:
        parts = pool.starmap(reading, [(settings, shards)] * cores)
    count = sum(part["images"] for part in parts)
    seconds = {
        name: [taken for part in parts for taken in part["seconds_by_batch"][name]]
        for name in parts[0]["seconds_by_batch"]
    }
    rates = {name: count / sum(times) for name, times in seconds.items()}
    return {"images": count, "cores": cores, "images_per_core_second": rates, "seconds_by_batch": seconds}


def large_jpegs(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        look = [rng.choice(values) for values in (CATEGORIES, COLOURS, PATTERNS, CUTS)]
        pictures.append(encode(render(*look, size=1600, seed=[number])))
    return pictures


def scaled(settings: Settings) -> dict[str, Any]:
    """Whole against scaled decoding of large JPEGs for an input: images a second and how much the inputs differ."""
    transform = plain_transform(settings.image_size)
    pictures, found = large_jpegs(settings.large), {}
    for name, read in (("whole", lambda data: np.asarray(decode(data))), ("scaled", transform.decode)):
        start = time.process_time()
        inputs = transform(read(data) for data in pictures)
        found[name] = (inputs.double(), len(pictures) / (time.process_time() - start))
    difference = (found["whole"][0] - found["scaled"][0]).abs()
    return {
        "pixels": 1600,
        "kilobytes": float(np.mean([len(data) for data in pictures])) / 1e3,
        "images_per_core_second": {name: rate for name, (_, rate) in found.items()},
        "difference_of_255": {"mean": float(difference.mean()), "largest": float(difference.max())},
    }


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(items=600, users=400, requests=6000, image_size=settings.pixels)
        found = on_every_core(settings, make_world(world, folder) / "shards")
    found["scaled_decoding"] = gain = scaled(settings)
    say = Console(highlight=False, soft_wrap=True).print
    differ, rates = gain["difference_of_255"], found["images_per_core_second"]
    say(f"scaled decoding: inputs differ by {differ['mean']:.2f} of 255, {differ['largest']:.0f} at most")
    large = gain["images_per_core_second"]
    ratios = [
        Ratio("images a second and core", rates["ours"], rates["bare"], "a bare loop", TARGET),
        Ratio("the same, popular pictures kept decoded", rates["popular kept"], rates["bare"], "a bare loop"),
        Ratio("the same, of 1600 pixels, scaled", large["scaled"], large["whole"], "decoded whole"),
    ]
    finish(settings, found, ratios)


if __name__ == "__main__":
    run_command(main)
