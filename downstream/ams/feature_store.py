"""The feature store: raw features (or images) of items on disk, in parts that processes own; it grows by appending.

======================  ==============================================================================================
``store.json``          count, shape and dtype of one feature, number of parts, and what each call of append added
``ids-GGGG.parquet``    item ids that the append numbered G added, in the order of their rows
``part-PPPPP.bin``      features of the rows r with r mod parts = P, ascending, back to back; memory-mapped
======================  ==============================================================================================

Rows are numbered from 0 in the order of appending and dealt to the parts in turn; process R of W owns the parts P with
P mod W = R. So no item is stored twice, appending changes no byte that is there, and as many processes as there are
parts can share a store. ``store.json`` is replaced last: an interrupted append leaves bytes that nothing refers to,
which the next one overwrites.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.files import digest, read_json, whole_file, whole_folder, write_json
from data_tools.common.locks import locked
from data_tools.common.parquet import read_parquet

BLOCK = 1 << 22  # bytes read at a time for a digest
AGAIN = "restore the files that were written together, or make the store again"


def file_of(part: int) -> str:
    """Name of a part's file."""
    return f"part-{part:05d}.bin"


def rows_in_part(count: int, part: int, parts: int) -> int:
    """How many of the rows 0 to ``count`` - 1 are in a part."""
    return (count - part + parts - 1) // parts


@dataclass(frozen=True)
class FeatureStore:
    """A feature store on disk, read by :func:`open_store`; features are read once a part is opened.

    Attributes
    ----------
    folder : Path
        Where it is.
    count : int
        Number of items.
    shape : tuple of int
        Of one feature.
    dtype : numpy.dtype
        Of one feature.
    parts : int
        Number of parts.
    appended : list of dict
        Of each append its ``count``, the digest of its ``ids``, of its bytes in each part (``digests``) and, where
        it is known, the encoder (``made_by``).
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    parts: int
    appended: list[dict[str, Any]]

    @property
    def item_bytes(self) -> int:
        """Bytes of one feature."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def info(self) -> dict[str, Any]:
        """Its entry in a run's summary, as ``EmbeddingTable.info`` is."""
        digests = [added["ids"] for added in self.appended]
        return {"count": self.count, "shape": list(self.shape), "dtype": self.dtype.name, "ids": digests}

    def ids(self) -> pl.Series:
        """Item ids as text, in the order of the rows.

        Raises
        ------
        UserError
            If a file of ids is missing or was changed.
        """
        files = [self.folder / f"ids-{number:04d}.parquet" for number in range(len(self.appended))]
        for file, added in zip(files, self.appended, strict=True):
            if not file.exists():
                raise UserError(f"{file} is missing: the ids of {added['count']:,} items; restore it")
            if digest([file]) != added["ids"]:
                raise UserError(f"{file} has another digest than store.json records; restore the file written with it")
        found = pl.concat([pl.Series("item_id", [], dtype=pl.String), *(read_parquet(f)["item_id"] for f in files)])
        if len(found) != self.count:
            raise UserError(f"{self.folder} has {len(found):,} ids for {self.count:,} items; {AGAIN}")
        return found

    def rows_of(self, item_ids: Sequence[Any]) -> np.ndarray:
        """Rows, int64 (M,), of items by id, compared as text; -1 where the store lacks the item."""
        known = pl.DataFrame({"item_id": self.ids()}).with_row_index("row")
        asked = pl.DataFrame({"item_id": [str(item) for item in item_ids]}, schema={"item_id": pl.String})
        found = asked.join(known, on="item_id", how="left", maintain_order="left")
        return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()

    def partition(self, rank: int = 0, processes: int = 1, verify: bool = True) -> Partition:
        """The parts that a process owns, memory-mapped; a single process owns all.

        Raises
        ------
        UserError
            If there are fewer parts than processes, or files of this process are missing, too short or, where
            ``verify``, have another digest; the message names all of them.
        """
        if self.parts < processes:
            raise UserError(
                f"{self.folder} has {self.parts} parts for {processes} processes; make it with more: "
                "python -m downstream.store --parts"
            )
        return Partition(self, range(rank, self.parts, processes), range(len(self.appended)) if verify else ())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features (n, \\*shape) of some rows (n,); each append that they came with is verified once.

        Raises
        ------
        UserError
            As :meth:`partition`, of the parts that the rows are in.
        """
        ends = np.cumsum([added["count"] for added in self.appended])
        appends = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
        return Partition(self, np.unique(rows % self.parts).tolist(), appends).read(rows)


def open_store(folder: str | Path) -> FeatureStore:
    """Read ``store.json``.

    Raises
    ------
    UserError
        If there is none, or it contradicts itself.
    """
    folder = Path(folder)
    if not (folder / "store.json").exists():
        raise UserError(
            f"{folder} is not a feature store: it has no store.json; make one with python -m downstream.store"
        )
    info = read_json(folder / "store.json")
    try:
        names = ("count", "shape", "dtype", "parts", "appended")
        count, shape, dtype, parts, appended = (info[name] for name in names)
        store = FeatureStore(folder, count, tuple(shape), np.dtype(dtype), parts, appended)
        sound = sum(added["count"] for added in appended) == count and math.prod(shape) > 0 and parts > 0
        sound = sound and all(len(added["digests"]) == parts and added["ids"] for added in appended)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/store.json is damaged ({type(error).__name__}: {error}); {AGAIN}") from None
    if not sound:
        raise UserError(f"{folder}/store.json contradicts itself: what was appended is not what it counts; {AGAIN}")
    return store


class Partition:
    """Some parts of a store, memory-mapped: reading a feature reads its pages, and nothing else is held.

    Parameters
    ----------
    store : FeatureStore
        Whose parts they are.
    parts : sequence of int
        Their numbers.
    verified : collection of int
        The appends whose bytes are compared with the store's digests first.

    Raises
    ------
    UserError
        If files are missing, too short or, where ``verified``, have another digest; the message names all of them.
    """

    def __init__(self, store: FeatureStore, parts: Sequence[int], verified: Collection[int] = ()) -> None:
        self.store = store
        faults = [fault for part in parts if (fault := _fault(store, part, verified))]
        if faults:
            raise UserError("; ".join([*faults, AGAIN]))
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
        """Features (n, \\*shape) of the store's rows (n,), which must be in these parts."""
        features = np.empty((len(rows), *self.store.shape), dtype=self.store.dtype)
        part, position = rows % self.store.parts, rows // self.store.parts
        for number, values in self.maps.items():
            chosen = np.flatnonzero(part == number)
            features[chosen] = values[position[chosen]]
        return features


def _fault(store: FeatureStore, part: int, verified: Collection[int]) -> str | None:
    """What is wrong with a part's file, or None."""
    path = store.folder / file_of(part)
    expected = rows_in_part(store.count, part, store.parts) * store.item_bytes
    if not path.exists():
        return f"{path} is missing"
    if (size := path.stat().st_size) < expected:
        return f"{path} has {size:,} bytes instead of {expected:,}"
    ends = [0]
    for added in store.appended:
        ends.append(ends[-1] + added["count"])
    for number in verified:
        start, end = (rows_in_part(count, part, store.parts) * store.item_bytes for count in ends[number : number + 2])
        found = _digest(path, start, end - start, path.stat().st_mtime_ns)
        if found != (promised := store.appended[number]["digests"][part]):
            return f"{path}: digest {found} of append {number}, not {promised}"
    return None


@cache
def _digest(path: Path, start: int, left: int, _changed: int) -> str:
    """The digest of a stretch of a file, worked out once for each state of the file in this process."""
    running = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        file.seek(start)
        while left:
            block = file.read(min(left, BLOCK))
            running.update(block)
            left -= len(block)
    return running.hexdigest()


def create_store(folder: str | Path, shape: Sequence[int], dtype: Any, parts: int) -> FeatureStore:
    """Make a store without items, of features of ``shape`` and ``dtype`` (a number type of numpy).

    Raises
    ------
    UserError
        If the folder exists, or ``parts`` is below 1.
    """
    if parts < 1:
        raise UserError(
            f"parts is {parts}; must be >= 1, and at least the number of processes that will train on the store"
        )
    store = FeatureStore(Path(folder), 0, tuple(shape), np.dtype(dtype), parts, [])
    with whole_folder(folder) as scratch:
        for part in range(parts):
            (scratch / file_of(part)).touch()
        _write_info(scratch, store)
    return store


def _write_info(folder: Path, store: FeatureStore) -> None:
    info = {"format_version": 1, "count": store.count, "shape": store.shape, "dtype": store.dtype.name}
    write_json(folder / "store.json", {**info, "parts": store.parts, "appended": store.appended})


def append(
    store: FeatureStore,
    chunks: Iterable[tuple[Sequence[Any], np.ndarray]],
    made_by: Mapping[str, Any] = MappingProxyType({}),
) -> FeatureStore:
    """Add new items; those that are there are neither read nor moved.

    Parameters
    ----------
    store : FeatureStore
        Stays valid for the items it had.
    chunks : iterable of tuple
        (item ids, features (n, \\*shape)) one after the other, each small enough for memory.
    made_by : mapping
        What tells features of one encoder from those of another, kept with the append.

    Returns
    -------
    FeatureStore
        The store with the new items.

    Raises
    ------
    UserError
        If a feature has another shape or values that are not finite, its item is there already, the store has
        features of another encoder, files are missing or too short, or another process appends, or did since the store
        was opened.
    """
    with locked(store.folder):
        if open_store(store.folder).appended != store.appended:
            raise UserError(f"another process appended to {store.folder} meanwhile; run the same command again")
        Partition(store, range(store.parts))  # or what is missing would become zeros
        for before in (added.get("made_by", {}) for added in store.appended):
            if unlike := [name for name in made_by if made_by[name] != before.get(name, made_by[name])]:
                here, there = ({name: one[name] for name in unlike} for one in (made_by, before))
                raise UserError(f"{store.folder} has features of another encoder: {there} instead of {here}")
        return _appended(store, chunks, dict(made_by))


def _appended(
    store: FeatureStore, chunks: Iterable[tuple[Sequence[Any], np.ndarray]], made_by: dict[str, Any]
) -> FeatureStore:
    known, added, row = set(store.ids()), [], store.count
    digests = [hashlib.blake2b(digest_size=16) for _ in range(store.parts)]
    with ExitStack() as opened:
        files = [opened.enter_context(open(store.folder / file_of(part), "r+b")) for part in range(store.parts)]
        for part, file in enumerate(files):
            file.truncate(rows_in_part(store.count, part, store.parts) * store.item_bytes)
            file.seek(0, os.SEEK_END)
        for ids, features in chunks:
            ids, features = [str(item) for item in ids], np.ascontiguousarray(features, dtype=store.dtype)
            _check(store, ids, features, known)
            known.update(ids)
            added += ids
            for part in range(store.parts):
                block = np.ascontiguousarray(features[(part - row) % store.parts :: store.parts]).tobytes()
                files[part].write(block)
                digests[part].update(block)
            row += len(ids)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    return _committed(store, row, added, digests, made_by) if added else store


def _committed(store: FeatureStore, count: int, ids: list[str], digests: list, made_by: dict[str, Any]) -> FeatureStore:
    path = store.folder / f"ids-{len(store.appended):04d}.parquet"
    with whole_file(path) as scratch:
        pl.DataFrame({"item_id": ids}, schema={"item_id": pl.String}).write_parquet(scratch)
    entry = {"count": count - store.count, "ids": digest([path]), "digests": [one.hexdigest() for one in digests]}
    entry |= {"made_by": made_by} if made_by else {}
    grown = FeatureStore(store.folder, count, store.shape, store.dtype, store.parts, [*store.appended, entry])
    _write_info(store.folder, grown)
    return grown


def _check(store: FeatureStore, ids: list[str], features: np.ndarray, known: set[str]) -> None:
    if features.shape != (len(ids), *store.shape):
        raise UserError(
            f"{store.folder}: {len(ids)} items with features of shape {features.shape}; each must be {store.shape}"
        )
    repeated = [item for item in ids if item in known] or ([] if len(set(ids)) == len(ids) else ids[:3])
    if repeated:
        raise UserError(
            f"{store.folder}: {len(repeated)} items are already in the store or given twice, such as {repeated[0]!r}"
        )
    if np.issubdtype(store.dtype, np.floating) and not np.isfinite(features).all():
        raise UserError(f"{store.folder}: features with NaN or infinite values among the items {ids[:3]} ...")
