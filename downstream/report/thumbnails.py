"""Thumbnails inside the page: the same items' nearest neighbours, and the same users' histories, by each embedding."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.common.pages import jpeg_uri
from data_tools.tables.table import read_table, unit_vectors
from downstream.data.ctr_data import CTRData


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


def thumbnails(strips: list[Strip]) -> dict[str, str]:
    """Source of each distinct thumbnail -> its name: a page holds it once, however often it shows it."""
    shown = [[strip.query, *chain.from_iterable(strip.neighbours.values())] for strip in strips]
    sources = dict.fromkeys(picture.source for picture in chain.from_iterable(shown))
    return {source: f"picture-{number}" for number, source in enumerate(sources)}


def nearest(unit: np.ndarray, usable: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of the ``count`` usable unit vectors with the highest cosine to each query, itself left out: (Q, count)."""
    cosines = np.where(usable, unit[queries] @ unit.T, -np.inf)
    cosines[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def _thumbnail(data: bytes, text: str, side: int = 72) -> Picture:
    with Image.open(io.BytesIO(data)) as image:
        return Picture(jpeg_uri(image, side, quality=80), text)


class Pictured:
    """Items that have a picture and are in every table, and their vectors; of a source with several, its first."""

    def __init__(self, data: CTRData, tables: dict[str, list[Path]]) -> None:
        self.data, self.items, self.vectors = data, data.dataset.items, {}
        self.usable = self.items["image"].is_not_null().to_numpy()
        for name, own in tables.items():
            if own:
                vectors, found = read_table(own[0]).lookup(data.item_ids)
                self.vectors[name], self.usable = unit_vectors(vectors), self.usable & found
        self.names = self.items["title"] if "title" in self.items.columns else self.items["item_id"]

    def __call__(self, row: int, said: str = "") -> Picture:
        """The picture of the item at a row of ``items.parquet``."""
        return _thumbnail(self.data.dataset.picture(self.items["image"][int(row)]), f"{self.names[int(row)]}{said}")


def strips(picture: Pictured, queries: int = 5, count: int = 5) -> list[Strip]:
    """Strips of a few items, drawn by a fixed seed from those never shown in training where there are such."""
    data, usable = picture.data, picture.usable
    fresh = usable & ~data.warm
    pool = np.flatnonzero(fresh if fresh.sum() >= queries else usable)
    if not picture.vectors or usable.sum() <= count or len(pool) < queries:
        return []
    chosen = np.sort(np.random.default_rng(0).choice(pool, queries, replace=False))
    near = {name: nearest(unit, usable, chosen, count) for name, unit in picture.vectors.items()}
    return [
        Strip(picture(query), {name: [picture(row) for row in rows[place]] for name, rows in near.items()})
        for place, query in enumerate(chosen)
    ]


def attended(picture: Pictured, queries: int = 5, count: int = 6) -> list[Strip]:
    """What the attention of a reconstruction picks from real histories: clicked items by their cosine with the target.

    COURIER weighs a user's clicks by the softmax of these cosines (arXiv 2306.05001, the projection-free form), so that
    they are in the order of their weights. The targets are clicks of the test split, each of another user with at least
    twice ``count`` other pictured clicks before, drawn by a fixed seed, on items never shown in training where there
    are such.
    """
    data = picture.data
    rows = data.rows["test"]
    rows = rows[(data.click[rows] == 1) & picture.usable[data.item[rows]]]
    if not picture.vectors or not len(rows):
        return []
    fresh = ~data.warm[data.item[rows]]
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(~fresh[order], kind="stable")]  # those never shown in training first
    found: dict[int, Strip] = {}
    for row in rows[order]:
        user, target, start = int(data.user[row]), int(data.item[row]), data.offsets[data.user[row]]
        clicked = np.unique(data.clicked[start : start + data.clicks_before[row]])
        clicked = clicked[picture.usable[clicked] & (clicked != target)]
        if user in found or len(clicked) < 2 * count:
            continue
        picked = {}
        for name, unit in picture.vectors.items():
            cosines = unit[clicked] @ unit[target]
            best = np.argsort(-cosines, kind="stable")[:count]
            picked[name] = [picture(clicked[one], f", cosine {cosines[one]:.2f}") for one in best]
        found[user] = Strip(picture(target), picked)
        if len(found) == queries:
            break
    return list(found.values())
