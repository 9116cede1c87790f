"""The feature store: raw features (or images) of items on disk, in parts that processes own, growing by appending.

    python -m downstream.ams.store --table TABLE --out STORE --parts 16

makes a store of an embedding table's vectors; the same command with a store that exists appends the items that it
lacks. The folder:

======================  ==============================================================================================
``store.json``          count, shape and dtype of one feature, number of parts, and what each appending added
``ids-GGGG.parquet``    item ids of appending G, in the order of their rows
``part-PPPPP.bin``      features of the rows r with r mod parts = P, ascending, back to back; to be memory-mapped
======================  ==============================================================================================

Rows are numbered from 0 in the order of appending and dealt out to the parts in turn; process R of W owns the parts P
with P mod W = R. So no item is stored twice, appending touches no byte that is there, and any number of processes up to
the number of parts can share a store. ``store.json`` is replaced last: an interrupted appending leaves bytes that
nothing refers to, which the next one overwrites.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import digest, whole_file, whole_folder, write_json
from data_tools.tables.table import read_table
from downstream.ams.feature_store import FeatureStore, open_store
from downstream.ams.partition import file_of, rows_in_part

CHUNK = 1 << 24  # bytes written at a time


def create_store(folder: str | Path, shape: Sequence[int], dtype: Any, parts: int) -> FeatureStore:
    """Make a store without items, of features of ``shape`` and ``dtype`` (a number type of numpy).

    Raises
    ------
    UserError
        If the folder exists, or ``parts`` is below 1.
    """
    if parts < 1:
        raise UserError(f"a store of {parts} parts; 1 or more are expected, at least as many as processes will read it")
    store = FeatureStore(Path(folder), 0, tuple(shape), np.dtype(dtype), parts, [])
    with whole_folder(folder) as scratch:
        for part in range(parts):
            (scratch / file_of(part)).touch()
        _write_info(scratch, store)
    return store


def _write_info(folder: Path, store: FeatureStore) -> None:
    info = {"format_version": 1, "count": store.count, "shape": store.shape, "dtype": store.dtype.name}
    write_json(folder / "store.json", {**info, "parts": store.parts, "appended": store.appended})


def append(store: FeatureStore, chunks: Iterable[tuple[Sequence[Any], np.ndarray]]) -> FeatureStore:
    """Add new items; what is there is neither read nor moved.

    Parameters
    ----------
    chunks : (item ids, features (n, \\*shape)) one after the other, each small enough for memory

    Returns
    -------
    store : with the new items; the one given stays valid for what it held

    Raises
    ------
    UserError
        If a feature is of another shape, has values that are not finite, or its item is there already.
    """
    known, added, row = set(store.ids()), [], store.count
    digests = [hashlib.blake2b(digest_size=16) for _ in range(store.parts)]
    files = []
    try:
        for part in range(store.parts):
            files.append(open(store.folder / file_of(part), "r+b"))  # noqa: SIM115 - closed below
            files[-1].truncate(rows_in_part(store.count, part, store.parts) * store.item_bytes)
            files[-1].seek(0, os.SEEK_END)
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
    finally:
        for file in files:
            file.close()
    return _committed(store, row, added, digests)


def _committed(store: FeatureStore, count: int, ids: list[str], digests: list) -> FeatureStore:
    path = store.folder / f"ids-{len(store.appended):04d}.parquet"
    with whole_file(path) as scratch:
        pl.DataFrame({"item_id": ids}, schema={"item_id": pl.String}).write_parquet(scratch)
    entry = {"count": count - store.count, "ids": digest([path]), "digests": [one.hexdigest() for one in digests]}
    grown = FeatureStore(store.folder, count, store.shape, store.dtype, store.parts, [*store.appended, entry])
    _write_info(store.folder, grown)
    return grown


def _check(store: FeatureStore, ids: list[str], features: np.ndarray, known: set[str]) -> None:
    if features.shape != (len(ids), *store.shape):
        raise UserError(f"{store.folder}: {len(ids)} items with features {features.shape}; {store.shape} each expected")
    repeated = [item for item in ids if item in known] or ([] if len(set(ids)) == len(ids) else ids[:3])
    if repeated:
        raise UserError(
            f"{store.folder}: {len(repeated)} items are there already or come twice, such as {repeated[0]!r}"
        )
    if np.issubdtype(store.dtype, np.floating) and not np.isfinite(features).all():
        raise UserError(f"{store.folder}: features with NaN or infinite values among the items {ids[:3]} ...")


@dataclass(frozen=True)
class Settings:
    """A table put into a store.

    Attributes
    ----------
    table : embedding table whose vectors are the raw features
    out : the store; made if it does not exist, else given the items that it lacks
    parts : of a new store; at least as many as processes will ever train on it
    """

    table: str = ""
    out: str = ""
    parts: int = 16

    def __post_init__(self) -> None:
        if not self.table or not self.out:
            raise UserError("--table TABLE and --out STORE are needed")


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    table = read_table(settings.table)
    fresh = not Path(settings.out).exists()
    if fresh:
        create_store(settings.out, table.vectors.shape[1:], table.vectors.dtype, settings.parts)
    store = open_store(settings.out)
    new = np.flatnonzero(store.rows_of(table.ids) < 0)
    step = max(CHUNK // store.item_bytes, 1)
    blocks = (new[start : start + step] for start in range(0, len(new), step))
    grown = append(store, (([table.ids[row] for row in block], table.vectors[block]) for block in blocks))
    Console().print(
        f"{settings.out}: {len(new):,} items appended, {len(table.ids) - len(new):,} were there and stay as they are; "
        f"{grown.count:,} items of {store.item_bytes:,} bytes in {grown.parts} parts"
    )


if __name__ == "__main__":
    run_command(main)
