"""The same items' nearest neighbours under each embedding, as thumbnails inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.table import read_table, unit_vectors
from downstream.data import CTRData


@dataclass(frozen=True)
class Picture:
    """A thumbnail: a data URI and what it shows in words."""

    source: str
    text: str


@dataclass(frozen=True)
class Strip:
    """An item and, for each source's name, its nearest neighbours, the nearest first."""

    query: Picture
    neighbours: dict[str, list[Picture]]


def nearest(vectors: np.ndarray, usable: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of the ``count`` usable vectors with the highest cosine to each query, itself left out: (Q, count)."""
    unit = unit_vectors(vectors)
    cosines = np.where(usable, unit[queries] @ unit.T, -np.inf)
    cosines[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def _thumbnail(path: Path, text: str, side: int = 72) -> Picture:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((side, side))
        small.save(buffer, "JPEG", quality=80)
    return Picture("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), text)


def strips(data: CTRData, tables: dict[str, list[Path]], queries: int = 5, count: int = 5) -> list[Strip]:
    """Strips of a few items, drawn by a fixed seed from those never shown in training where there are such.

    Only items that have a picture and stand in every table take part; of several tables of a source, the first.
    """
    vectors = {}
    items = data.dataset.items
    usable = items["image"].is_not_null().to_numpy()
    for name, own in tables.items():
        if own:
            vectors[name], found = read_table(own[0]).lookup(data.item_ids)
            usable = usable & found
    fresh = usable & ~data.seen
    pool = np.flatnonzero(fresh if fresh.sum() >= queries else usable)
    if not vectors or usable.sum() <= count or len(pool) < queries:
        return []
    chosen = np.sort(np.random.default_rng(0).choice(pool, queries, replace=False))
    names = items["title"] if "title" in items.columns else items["item_id"]

    def picture(row: int) -> Picture:
        return _thumbnail(data.dataset.folder / items["image"][int(row)], str(names[int(row)]))

    near = {name: nearest(own, usable, chosen, count) for name, own in vectors.items()}
    return [
        Strip(picture(query), {name: [picture(row) for row in rows[place]] for name, rows in near.items()})
        for place, query in enumerate(chosen)
    ]
