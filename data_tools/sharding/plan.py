"""A plan of shards: what goes into which, as flat arrays on disk that many processes map into memory.

Some 70 bytes a page view, 12 a click and 17 a picture; nothing is held per impression.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.files import read_json

# Arrays of a plan: one file each, read as memory maps.
ARRAYS = {
    "path": np.uint8,  # UTF-8 of the pictures' paths, one after the other; item i's is path[path_start[i]:...[i + 1]]
    "path_start": np.int64,
    "image_bytes": np.int64,  # by item, 0 without a picture; behind the items, those of further pictures
    "owner": np.int32,  # the item that each further picture is of; only where there are such
    "seen": np.bool_,  # by item: it, or a near-duplicate of it, is in some training request
    "number": np.int32,  # by item: its number in the shards, where that is another
    "written": np.int32,  # the items whose pictures are to be written
    "clicked": np.int32,  # pictured items clicked, user after user, oldest first
    "request": np.int64,  # by page view, as the six that follow
    "category": np.int32,  # index into the plan's categories
    "history_start": np.int64,  # the history is clicked[history_start:history_stop]
    "history_stop": np.int64,
    "fresh": np.int32,  # how many of its last clicks no earlier usable page view of the split has in its history
    "slot_start": np.int64,  # its slots are item[slot_start:slot_stop] and so on
    "slot_stop": np.int64,
    "item": np.int32,  # by pictured slot, as the two that follow
    "click": np.int8,
    "oracle": np.float64,  # only where the dataset knows it
    "order": np.int64,  # page views (rows of "request"), group after group
}


@dataclass(frozen=True)
class Plan:
    """A plan folder: ``plan.json`` (groups, categories, counts) and the arrays, each read on first use."""

    folder: Path

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in ARRAYS or not (self.folder / name).exists():
            raise AttributeError(name)
        array = np.zeros(0, ARRAYS[name])
        if (self.folder / name).stat().st_size:  # nothing can be mapped of an empty file
            array = np.memmap(self.folder / name, dtype=ARRAYS[name], mode="r").view(np.ndarray)  # which indexes faster
        object.__setattr__(self, name, array)
        return array

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``plan.json``."""
        return read_json(self.folder / "plan.json")

    @cached_property
    def has_oracle(self) -> bool:
        """Whether the true click probability is known."""
        return (self.folder / "oracle").exists()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_plan, (self.folder,)

    def numbered(self, items: np.ndarray) -> np.ndarray:
        """The numbers of items in the shards."""
        return self.number[items] if (self.folder / "number").exists() else items

    @cached_property
    def has_further(self) -> bool:
        """Whether items have further pictures, which are numbered behind the items."""
        return (self.folder / "owner").exists()

    def owners(self, pictures: np.ndarray) -> np.ndarray:
        """The items that pictures are of: a first picture has its item's number."""
        if not self.has_further:
            return pictures
        items = len(self.image_bytes) - len(self.owner)
        further = pictures >= items
        return np.where(further, self.owner[np.where(further, pictures - items, 0)], pictures)

    def image(self, item: int) -> str:
        """The path of an item's picture, or of a further one, in the dataset folder."""
        return self.path[self.path_start[item] : self.path_start[item + 1]].tobytes().decode()

    def items_of(self, row: int) -> np.ndarray:
        """Items of a page view's history and slots."""
        shown = self.item[self.slot_start[row] : self.slot_stop[row]]
        return np.concatenate([self.clicked[self.history_start[row] : self.history_stop[row]], shown])

    def record(self, row: int, split: str) -> dict[str, Any]:
        """A request as a shard holds it."""
        shown = slice(self.slot_start[row], self.slot_stop[row])
        page = self.item[shown]
        return {
            "request": int(self.request[row]),
            "split": split,
            "category": self.info["categories"][self.category[row]],
            "history": self.clicked[self.history_start[row] : self.history_stop[row]].tolist(),
            "fresh": int(self.fresh[row]),
            "page": page.tolist(),
            "click": self.click[shown].tolist(),
            **({"oracle": self.oracle[shown].tolist()} if self.has_oracle else {}),
            "seen": self.seen[page].astype(int).tolist(),
        }


@cache
def open_plan(folder: Path) -> Plan:
    """The plan that a writing process is sent with every job, opened once."""
    return Plan(folder)


def trained_digest(plan: Plan, pages: np.ndarray, block: int = 1 << 16) -> str:
    """A digest of some page views, bool (page views,): their histories, fresh clicks, slots and clicks, in order."""
    running, rows = hashlib.blake2b(digest_size=16), np.flatnonzero(pages)
    for first in range(0, len(rows), block):
        some = rows[first : first + block]
        clicked = ranges(plan.history_start[some], plan.history_stop[some])
        shown = ranges(plan.slot_start[some], plan.slot_stop[some])
        for values in (
            plan.history_stop[some] - plan.history_start[some],
            plan.numbered(plan.clicked[clicked]),
            plan.fresh[some],
            plan.slot_stop[some] - plan.slot_start[some],
            plan.numbered(plan.item[shown]),
            plan.click[shown],
        ):
            running.update(np.ascontiguousarray(values).tobytes())
    return running.hexdigest()


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The whole numbers of the ranges ``starts[k]:stops[k]``, range after range."""
    lengths = stops - starts
    firsts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
