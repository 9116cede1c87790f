"""The parts of a feature store that one process owns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.common.cli import UserError

if TYPE_CHECKING:
    from downstream.ams.feature_store import FeatureStore

BLOCK = 1 << 22  # bytes read at a time for a digest


def file_of(part: int) -> str:
    """Name of a part's file."""
    return f"part-{part:05d}.bin"


def rows_in_part(count: int, part: int, parts: int) -> int:
    """How many of the rows 0 to ``count`` - 1 lie in a part."""
    return (count - part + parts - 1) // parts


class Partition:
    """Some parts of a store, memory-mapped: reading a feature reads its pages, and nothing else is held.

    Parameters
    ----------
    store : what they are parts of
    parts : their numbers
    verify : whether all of their bytes are compared with the store's digests first

    Raises
    ------
    UserError
        If files are missing, too short or, where ``verify``, of another digest; all of them are named.
    """

    def __init__(self, store: FeatureStore, parts: Sequence[int], verify: bool = True) -> None:
        self.store = store
        faults = [fault for part in parts if (fault := _fault(store, part, verify))]
        if faults:
            raise UserError("; ".join([*faults, "bring the files back, or make the store again"]))
        self.maps = {part: self._map(part) for part in parts}

    def _map(self, part: int) -> np.ndarray:
        shape = (rows_in_part(self.store.count, part, self.store.parts), *self.store.shape)
        if not shape[0]:  # nothing to map
            return np.empty(shape, dtype=self.store.dtype)
        return np.memmap(self.store.folder / file_of(part), dtype=self.store.dtype, mode="r", shape=shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of features in these parts."""
        return sum(part.nbytes for part in self.maps.values())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features (n, \\*shape) of the store's rows (n,), which must lie in these parts."""
        features = np.empty((len(rows), *self.store.shape), dtype=self.store.dtype)
        part, position = rows % self.store.parts, rows // self.store.parts
        for number, values in self.maps.items():
            chosen = np.flatnonzero(part == number)
            features[chosen] = values[position[chosen]]
        return features

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Which of the store's rows (n,) lie in these parts, bool (n,)."""
        return np.isin(rows % self.store.parts, list(self.maps))


def _fault(store: FeatureStore, part: int, verify: bool) -> str | None:
    """What is wrong with a part's file, or None."""
    path = store.folder / file_of(part)
    expected = rows_in_part(store.count, part, store.parts) * store.item_bytes
    if not path.exists():
        return f"{path} is missing"
    if (size := path.stat().st_size) < expected:
        return f"{path} has {size:,} bytes, {expected:,} are expected"
    return _other_digest(store, part) if verify else None


def _other_digest(store: FeatureStore, part: int) -> str | None:
    count = 0
    with open(store.folder / file_of(part), "rb") as file:
        for number, added in enumerate(store.appended):
            before, count = rows_in_part(count, part, store.parts), count + added["count"]
            left = (rows_in_part(count, part, store.parts) - before) * store.item_bytes
            running = hashlib.blake2b(digest_size=16)
            while left:
                block = file.read(min(left, BLOCK))
                running.update(block)
                left -= len(block)
            if running.hexdigest() != added["digests"][part]:
                return f"{file.name}: digest {running.hexdigest()} in appending {number}, not {added['digests'][part]}"
    return None
