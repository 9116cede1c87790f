"""A dataset's pictures: which are missing, blank, tiny, or the same picture twice."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from data_tools.dataset.schema import Dataset
from data_tools.reading.images import FORMATS, BadImage, read_image
from data_tools.reading.near_duplicates import Looks, first_alike


@dataclass(frozen=True)
class Pictures:
    """Facts about the pictures, one entry per item.

    Attributes
    ----------
    fault : list of str or None
        Why there is no usable picture: "none named", "missing", "unreadable" ...; None where there is one.
    width, height : int array (items,), in pixels; 0 where there is none
    size : int array (items,), bytes of the file
    blank : bool array (items,): one flat colour
    group : int array (items,): items with the same picture share a number; -1 where the picture is unique or blank
    exact : bool array (items,): another item's file has the same bytes
    """

    fault: list[str | None]
    width: np.ndarray
    height: np.ndarray
    size: np.ndarray
    blank: np.ndarray
    group: np.ndarray
    exact: np.ndarray

    def groups(self) -> list[np.ndarray]:
        """Items of each group of duplicates, the largest group first."""
        order = np.argsort(self.group, kind="stable")
        order = order[self.group[order] >= 0]
        parts = np.split(order, np.flatnonzero(np.diff(self.group[order])) + 1) if len(order) else []
        return sorted(parts, key=len, reverse=True)


class _Look(NamedTuple):
    fault: str | None
    width: int = 0
    height: int = 0
    size: int = 0


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.size


def _look(dataset: Dataset, name: str | None, looks: Looks, row: int) -> _Look:
    if name is None:
        return _Look("none named")
    try:
        data = dataset.picture(name)
        picture = read_image(data, at_least=64)
    except BadImage as bad:
        return _Look(bad.reason)
    except OSError:
        return _Look("missing")
    looks.set(row, data, picture)
    return _Look(None, *_size(data), len(data))


def _group(looks: Looks, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group numbers and whether a file is a copy, of the items with a usable picture; see :class:`Pictures`."""
    group, exact = np.full(len(usable), -1), np.zeros(len(usable), bool)
    rows = np.flatnonzero(usable)
    looks = looks.of(rows)
    label = first_alike(looks)
    several = np.bincount(label)[label] > 1
    group[rows[several]] = np.unique(label[several], return_inverse=True)[1]
    _, copy_of = np.unique(looks.digest, axis=0, return_inverse=True)
    exact[rows] = np.bincount(copy_of.ravel())[copy_of.ravel()] > 1
    return group, exact


def look_at_pictures(dataset: Dataset) -> Pictures:
    """Read every picture once, showing progress, and find the duplicates."""
    names = dataset.items["image"].to_list()
    everything = Looks.empty(len(names))
    with ThreadPoolExecutor() as pool:
        work = pool.map(lambda row: _look(dataset, names[row], everything, row), range(len(names)))
        looks = list(track(work, "reading pictures", total=len(names)))
    readable = np.array([look.fault is None for look in looks], bool)
    blank = readable & everything.blank
    group, exact = _group(everything, readable & ~blank)
    return Pictures(
        fault=[look.fault for look in looks],
        width=np.array([look.width for look in looks]),
        height=np.array([look.height for look in looks]),
        size=np.array([look.size for look in looks]),
        blank=blank,
        group=group,
        exact=exact,
    )
