"""Finding near-duplicates among n pictures: seconds and memory, against comparing every pair of hashes.

    python tests/benchmarks/near_duplicates.py --out results/benchmarks/near_duplicates.json

Hashes are drawn, or are those of the pictures in a folder, each with eight bits turned, so that they crowd as those of
photographs do; a twentieth of the pictures are copies. Both sides have to find the same pairs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
from report import Ratio, finish

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.system import peak_memory
from data_tools.reading.images import read_image
from data_tools.reading.near_duplicates import Looks, alike, first_alike, near_pairs

COPIES = 20  # one picture of so many is a copy
TURNED = 8  # bits


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    sizes : numbers of pictures, ascending, as the peak memory is the process's
    distance : bits
    pictures : folder of pictures whose hashes are taken; drawn ones without
    compared : every pair is compared up to this many pictures
    out : file of the figures; none by default
    """

    sizes: list[int] = field(default_factory=lambda: [10_000, 1_000_000])
    distance: int = 6
    pictures: str | None = None
    compared: int = 100_000
    out: str | None = None


def of_folder(folder: Path) -> Looks:
    """What is compared of all pictures below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    looks = Looks.empty(len(files))
    for row, file in enumerate(files):
        data = file.read_bytes()
        looks.set(row, data, read_image(data, at_least=64))
    return looks


def drawn(count: int, known: Looks | None, rng: np.random.Generator) -> Looks:
    """``count`` pictures, the last of them copies of the first."""
    looks = Looks.empty(count)
    looks.digest[:] = rng.integers(0, 256, looks.digest.shape, dtype=np.uint8)
    for start in range(0, count, 100_000):
        part = slice(start, min(start + 100_000, count))
        size = part.stop - start
        if known is None:
            looks.hash[part] = rng.integers(0, 256, (size, 8), dtype=np.uint8)
            looks.small[part] = rng.integers(0, 256, (size, *looks.small.shape[1:]), dtype=np.uint8)
            continue
        row = rng.integers(0, len(known.hash), size)
        bits = np.unpackbits(known.hash[row], axis=1)
        turned = rng.random((size, 64)).argpartition(TURNED, axis=1)[:, :TURNED]
        bits[np.arange(size)[:, None], turned] ^= 1
        looks.hash[part] = np.packbits(bits, axis=1)
        noise = rng.integers(-12, 13, (size, *looks.small.shape[1:]))
        looks.small[part] = np.clip(known.small[row] + noise, 0, 255)
    copies = count // COPIES
    for array in (looks.hash, looks.small):
        array[count - copies :] = array[:copies]
    return looks


def every_pair(looks: Looks, distance: int) -> set[tuple[int, int]]:
    """The same pairs as :func:`near_pairs`, by comparing all hashes, and the small copies of those that are near."""
    index = faiss.IndexBinaryFlat(64)
    index.add(looks.hash)
    limits, _, found = index.range_search(looks.hash, distance + 1)
    first = np.repeat(np.arange(len(looks.hash)), np.diff(limits.astype(np.int64)))
    kept = first < found
    first, second = first[kept], found[kept]
    same = alike(looks.small[first], looks.small[second])
    return set(zip(first[same].tolist(), second[same].tolist(), strict=True))


def measured(looks: Looks, settings: Settings) -> tuple[dict, list[Ratio]]:
    """Figures of one size, and the ratio to the other side where it is run."""
    count, ratios = len(looks.hash), []
    start = time.perf_counter()
    first, second = near_pairs(looks, settings.distance)
    searched = time.perf_counter() - start
    start = time.perf_counter()
    found = first_alike(looks, settings.distance)
    seconds = time.perf_counter() - start
    copies = count // COPIES
    if (found[count - copies :] != found[:copies]).any():
        raise UserError("copies were not found")
    row = {"pictures": count, "pairs": len(first), "search_seconds": searched, "seconds": seconds}
    row["peak_memory_mib"] = peak_memory()
    if count <= settings.compared:
        start = time.perf_counter()
        pairs = every_pair(looks, settings.distance)
        row["every_pair_seconds"] = time.perf_counter() - start
        if pairs != set(zip(first.tolist(), second.tolist(), strict=True)):
            raise UserError("the two sides find other pairs")
        side = f"every pair, faiss {faiss.__version__}"
        ratios = [Ratio(f"seconds, {count:,} hashes", searched, row["every_pair_seconds"], side)]
    return row, ratios


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    known = of_folder(Path(settings.pictures)) if settings.pictures else None
    rows, ratios = [], []
    for count in settings.sizes:
        row, own = measured(drawn(count, known, np.random.default_rng(0)), settings)
        print(row, flush=True)
        rows.append(row)
        ratios += own
    finish(settings, {"rows": rows}, ratios)


if __name__ == "__main__":
    run_command(main)
