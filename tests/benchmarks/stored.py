"""What pictures cost in bytes, and bring in speed, at the size and in the form in which they are stored.

    python tests/benchmarks/stored.py --out results/benchmarks/stored.json

Rendered pictures of a simulated shop are stored as they are, at several sides, and decoded; of each form, the bytes of
the tars, the seconds to write them, and the pictures a second that are read, decoded, cropped, resized and mirrored on
one core by the loader's own transform, at a small and a large input. Seconds are those of the processor, so that others
on the machine do not count. The other side of each is the form "as they are".
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.data.transforms import Decoder, training_transform
from pretrain.settings import Batch


@dataclass
class Settings:
    """Benchmark of stored pictures.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    items : int
        Pictures.
    pixels : int
        Side of the pictures as they are.
    inputs : list of int
        Sides of the input.
    encoded : list of int
        Sides that are stored encoded.
    decoded : list of int
        Sides that are stored decoded.
    """

    out: str | None = None
    items: int = 1000
    pixels: int = 512
    inputs: list[int] = field(default_factory=lambda: [64, 224])
    encoded: list[int] = field(default_factory=lambda: [256, 128, 72])
    decoded: list[int] = field(default_factory=lambda: [256, 72])


def pictures_a_second(shards: Path, image_size: int) -> float:
    """Pictures a second of the processor's time, of reading and the training transform."""
    pictures = open_shards(shards).pictures("items")
    decoder, items = Decoder(training_transform(Batch(), image_size)), list(range(len(pictures)))
    torch.manual_seed(0)
    decoder.views(pictures, items[:50])
    started = time.process_time()
    for start in range(0, len(items), 50):
        decoder.views(pictures, items[start : start + 50])
    return len(items) / (time.process_time() - started)


def measure(settings: Settings, folder: Path) -> dict[str, Any]:
    world = make_world(World(items=settings.items, users=100, requests=800, image_size=settings.pixels), folder / "w")
    forms: dict[str, dict[str, Any]] = {"as they are": {}}
    forms |= {f"--side {side}": {"side": side} for side in settings.encoded}
    forms |= {f"--pictures decoded --side {side}": {"side": side, "pictures": "decoded"} for side in settings.decoded}
    found = {}
    for number, (name, form) in enumerate(forms.items()):
        out, started = folder / f"shards-{number}", time.process_time()
        index = write_shards(Shards(dataset=str(world / "dataset"), out=str(out), workers=1, **form))
        found[name] = {
            "bytes_a_picture": sum(shard["bytes"] for shard in index["items"]) / settings.items,
            "seconds_to_write": time.process_time() - started,
            # Inputs larger than what is stored would be blown up.
            "pictures_a_second": {
                str(size): pictures_a_second(out, size) for size in settings.inputs if size <= form.get("side", size)
            },
        }
    return found


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(settings, Path(folder))
    plain = found["as they are"]
    ratios = []
    for name, one in list(found.items())[1:]:
        size, other = one["bytes_a_picture"], plain["bytes_a_picture"]
        ratios.append(Ratio(f"bytes a picture, {name}", size, other, "as they are"))
        for size, rate in one["pictures_a_second"].items():
            other = plain["pictures_a_second"][size]
            ratios.append(Ratio(f"pictures a second at {size} px, {name}", rate, other, "as they are"))
    finish(settings, {"figures": found}, ratios)


if __name__ == "__main__":
    run_command(main)
