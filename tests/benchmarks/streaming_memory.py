"""Memory of validation and of export as the number of pictures grows: flat, whatever their number.

    python tests/benchmarks/streaming_memory.py --out results/benchmarks/streaming_memory.json

Each job runs in a process of its own on pictures of 224 px, with its loader processes. Its peak is that of the whole
tree of processes, from the system's proportional set sizes (pages that processes share count once), asked for ten times
a second; how much one more picture adds says what 200 thousand would take.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from report import Ratio, finish
from shards import make_dataset

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards

PICTURES, MEGABYTES = 200_000, 2 * 1024**3 / 1e6  # the number of pictures that are to fit, and into what
VALIDATION = """
import sys
from pretrain.encoder.image_encoder import build_encoder
from pretrain.evaluation.page_auc import encoder_page_auc, load_requests
from data_tools.common.memory import keep_freed_memory
from pretrain.settings import Encoder
keep_freed_memory()
shards, name, size, limit = sys.argv[1:]
requests = load_requests(shards, "test", image_size=int(size), history=30, limit=int(limit), seed=0)
encoder_page_auc(build_encoder(Encoder(name=name, image_size=int(size))), requests)
print(len(requests.page), "page views,", len(requests.images), "pictures")
"""


@dataclass
class Settings:
    """Benchmark of memory.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    pictures : list of int
        How many there are.
    encoder : str
        timm model.
    pixels : int
        Side of the pictures and of the input.
    requests : int
        Page views that validation reads at most; each mentions up to 38 pictures.
    """

    out: str | None = None
    pictures: list[int] = field(default_factory=lambda: [1500, 6000])
    encoder: str = "test_byobnet"
    pixels: int = 224
    requests: int = 24_000


def jpegs(count: int, pixels: int) -> list[bytes]:
    """A few different JPEGs of smooth noise."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((pixels, pixels), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def make_shards(folder: Path, pictures: int, pixels: int) -> Path:
    """Shards of so many pictures, all of which the test split mentions."""
    dataset = make_dataset(folder / "dataset", pictures, 4 * pictures)
    data = jpegs(64, pixels)
    for item in range(pictures):
        (dataset / f"images/{item}.jpg").write_bytes(data[item % len(data)])
    write_shards(Shards(dataset=str(dataset), out=str(folder / "shards"), workers=1))
    return folder / "shards"


def tree_megabytes(process: psutil.Process) -> float:
    """What a process and its children take now."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it ended meanwhile
            continue
    return total / 1e6


def peak(command: list[str]) -> dict[str, Any]:
    """Megabytes at the peak, and seconds, of a command; and the last line that it prints."""
    started, highest = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            highest = max(highest, tree_megabytes(process))
            time.sleep(0.1)
        said = child.stdout.read()
    if child.returncode:
        raise UserError(f"{' '.join(command[:4])} failed:\n{said[-800:]}")
    last = said.strip().rpartition("\n")[2]
    return {"peak_megabytes": highest, "seconds": time.perf_counter() - started, "last_line": last}


def measure(settings: Settings, count: int, folder: Path) -> dict[str, Any]:
    shards = make_shards(folder, count, settings.pixels)
    encoder = ["--encoder.name", settings.encoder, "--encoder.image_size", str(settings.pixels)]
    export = ["-m", "pretrain.export", "--data", str(shards), "--out", str(folder / "table"), *encoder]
    validation = ["-c", VALIDATION, str(shards), settings.encoder, str(settings.pixels), str(settings.requests)]
    return {"validation": peak([sys.executable, *validation]), "export": peak([sys.executable, *export])}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in settings.pictures:
            found[str(count)] = measure(settings, count, Path(folder) / str(count))
    few, many = min(settings.pictures), max(settings.pictures)
    ratios = []
    for job in ("validation", "export"):
        small, large = (found[str(count)][job]["peak_megabytes"] for count in (few, many))
        each = max(0.0, large - small) / (many - few)
        found[f"{job}_kilobytes_a_picture"] = 1000 * each
        ratios.append(Ratio(f"MB at the peak, {job}", large, small, f"{few:,} pictures, not {many:,}", 1.1, True))
        ratios.append(
            Ratio(f"MB at {PICTURES:,} pictures, {job}", large + each * (PICTURES - many), MEGABYTES, "2 GiB", 1, True)
        )
    finish(settings, {"figures": found}, ratios)


if __name__ == "__main__":
    run_command(main)
