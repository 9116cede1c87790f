"""How many different products are taken for near-duplicates, and how many changed pictures are found, bit by bit.

    python tests/benchmarks/near_duplicate_rates.py --items DIR/items.csv --product product --colour colour --out FILE

Every item of the list is a product of its own, so that whatever is merged, but for files of the same bytes, is merged
wrongly, or one photograph was used twice. Every tenth picture is changed in several ways and compared with itself.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import polars as pl
from PIL import Image
from report import finish
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import parse_settings, run_command
from data_tools.reading.images import read_image
from data_tools.reading.near_duplicates import Looks, alike

EVERY = 10
MOST_BITS = 8


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    items : item list with a column image, paths from its folder (or from ``images`` there)
    product, colour : columns that say which items are one product in several colours
    out : file of the figures; none by default
    """

    items: str
    product: str
    colour: str
    out: str | None = None


def encoded(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return read_image(file.getvalue())


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Without this share of the width and the height, half of it at each side."""
    x, y = (round(side * share / 2) for side in picture.size)
    return picture.crop((x, y, picture.width - x, picture.height - y))


CHANGES = {
    "JPEG at quality 50": lambda picture: encoded(picture, 50),
    "JPEG at quality 20": lambda picture: encoded(picture, 20),
    "half the size": lambda picture: picture.resize([side // 2 for side in picture.size], Image.Resampling.BICUBIC),
    "darker by 10 %": lambda picture: picture.point(lambda level: round(0.9 * level)),
    "brighter by 10 %": lambda picture: picture.point(lambda level: min(255, round(1.1 * level))),
    "cropped by 2 %": lambda picture: cropped(picture, 0.02),
    "cropped by 4 %": lambda picture: cropped(picture, 0.04),
}


def looked_at(settings: Settings, names: list[str]) -> tuple[Looks, dict[str, Looks]]:
    """All pictures, and every tenth changed."""
    folder = Path(settings.items).parent
    folder = folder if (folder / names[0]).exists() else folder / "images"
    looks = Looks.empty(len(names))
    changed = {change: Looks.empty(-(-len(names) // EVERY)) for change in CHANGES}
    for row, name in enumerate(names):
        data = (folder / name).read_bytes()
        looks.set(row, data, read_image(data, at_least=64))
        if row % EVERY == 0:
            for change, how in CHANGES.items():
                changed[change].set(row // EVERY, b"", how(read_image(data)))
    return looks, changed


def hash_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most ``MOST_BITS`` bits."""
    index = faiss.IndexBinaryFlat(64)
    index.add(hashes)
    limits, _, found = index.range_search(hashes, MOST_BITS + 1)
    first = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    return first[first < found], found[first < found]


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    items = pl.read_csv(settings.items, infer_schema=False)
    looks, changed = looked_at(settings, items["image"].to_list())
    first, second = hash_pairs(looks.hash)
    product, colour = (items[name].to_numpy() for name in (settings.product, settings.colour))
    other = (looks.digest[first] != looks.digest[second]).any(axis=1)
    first, second = first[other], second[other]
    bits = np.bitwise_count(looks.hash[first] ^ looks.hash[second]).sum(axis=1)
    confirmed = alike(looks.small[first], looks.small[second])
    colours = (product[first] == product[second]) & (colour[first] != colour[second])

    def share(kept: np.ndarray) -> float:
        return len(np.unique(np.concatenate([first[kept], second[kept]]))) / len(items)

    own = Looks(*(getattr(looks, name)[::EVERY] for name in ("digest", "hash", "small")))
    rows = []
    for most in range(0, MOST_BITS + 1, 2):
        near = bits <= most
        row = {
            "bits": most,
            "merged, hash alone": share(near),
            "merged": share(near & confirmed),
            "merged, another colour of the product, hash alone": share(near & colours),
            "merged, another colour of the product": share(near & confirmed & colours),
        }
        for change, found in changed.items():
            close = np.bitwise_count(found.hash ^ own.hash).sum(axis=1) <= most
            row[change] = float((close & alike(found.small, own.small)).mean())
        rows.append(row)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*[str(row["bits"]), *[f"{value:.2%}" for name, value in row.items() if name != "bits"]])
    Console(width=200).print(table)
    repeated = len(items) - len(np.unique(looks.digest, axis=0))
    finish(settings, {"items": len(items), "files_of_the_same_bytes": repeated, "rows": rows})


if __name__ == "__main__":
    run_command(main)
