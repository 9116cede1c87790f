"""Embedding tables: item ids and their vectors, with where they came from.

Our own form is a folder of Parquet parts (``item_id``, ``embedding`` as a fixed-size list of float16 or float32) and
``table.json`` (count, size, dtype, normalised, layer, encoder, preprocessing, weights, checkpoint, dataset).
Tables made elsewhere load too: ``.npz`` with the arrays ``ids`` and ``vectors``, ``.npy`` of vectors with the ids in
``<name>.ids.npy`` or ``<name>.ids.txt`` beside it, and one ``.parquet`` file with ``item_id`` and ``embedding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.cli import UserError
from data_tools.files import read_json, whole_folder, write_json


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of items.

    Attributes
    ----------
    ids : item ids as given in the log, N strings or integers
    vectors : float32 array (N, D)
    info : what ``table.json`` says of them; empty for tables made elsewhere
    """

    ids: list[Any]
    vectors: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def lookup(self, item_ids: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors in the order of ``item_ids``.

        Ids are compared as text, so that 7 of one file finds "7" of another.

        Returns
        -------
        vectors : float32 array (M, D), zeros where the table lacks the item
        found : bool array (M,)
        """
        row_of = {str(item): row for row, item in enumerate(self.ids)}
        rows = np.array([row_of.get(str(item), -1) for item in item_ids], dtype=np.int64)
        found = rows >= 0
        vectors = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        vectors[found] = self.vectors[rows[found]]
        return vectors, found


def write_part(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """Write one Parquet part of a table: ``ids`` (n) and ``vectors`` (n, D) of float16 or float32."""
    flat = pa.array(vectors.reshape(-1))
    columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
    pq.write_table(pa.table(columns, names=["item_id", "embedding"]), path)


def write_table(folder: str | Path, ids: Sequence[Any], vectors: np.ndarray, info: dict[str, Any]) -> None:
    """Write a whole table of one part; ``info`` is joined into ``table.json``."""
    with whole_folder(folder) as scratch:
        write_part(scratch / "part-00000.parquet", ids, vectors)
        write_json(scratch / "table.json", {**describe(*vectors.shape, str(vectors.dtype)), **info})


def describe(count: int, size: int, dtype: str) -> dict[str, Any]:
    """The part of ``table.json`` that every table has."""
    return {"format_version": 1, "count": count, "size": size, "dtype": dtype}


def _read_parquet(paths: Sequence[Path]) -> tuple[list[Any], np.ndarray]:
    frame = pl.concat([pl.read_parquet(path, columns=["item_id", "embedding"]) for path in paths])
    lengths = frame["embedding"].cast(pl.List(pl.Float32)).list.len().unique()
    if len(lengths) != 1:
        raise UserError(f"{paths[0].parent}: embeddings of several sizes {sorted(lengths)}; one size is expected")
    flat = frame["embedding"].cast(pl.List(pl.Float32)).explode().to_numpy()
    return frame["item_id"].to_list(), flat.reshape(len(frame), -1)


def _read_npy(path: Path) -> tuple[list[Any], np.ndarray]:
    for ids in (path.with_suffix(".ids.npy"), path.with_suffix(".ids.txt")):
        if ids.exists():
            read = np.load(ids).tolist() if ids.suffix == ".npy" else ids.read_text(encoding="utf-8").splitlines()
            return read, np.load(path)
    raise UserError(f"{path} needs its item ids beside it, as {path.stem}.ids.npy or {path.stem}.ids.txt")


def _read_npz(path: Path) -> tuple[list[Any], np.ndarray]:
    arrays = np.load(path)
    if not {"ids", "vectors"} <= set(arrays.files):
        raise UserError(f"{path} holds the arrays {arrays.files}; 'ids' and 'vectors' are expected")
    return arrays["ids"].tolist(), arrays["vectors"]


_READERS = {".parquet": lambda path: _read_parquet([path]), ".npy": _read_npy, ".npz": _read_npz}


def read_table(path: str | Path) -> EmbeddingTable:
    """Read a table of our own form or one made elsewhere.

    Raises
    ------
    UserError
        If there is none, or it has repeated ids, another number of ids than of vectors, or values that are not finite.
    """
    path = Path(path)
    info: dict[str, Any] = {}
    if (path / "table.json").exists():
        info = read_json(path / "table.json")
        ids, vectors = _read_parquet(sorted(path.glob("part-*.parquet")))
    elif path.is_file() and path.suffix in _READERS:
        try:
            ids, vectors = _READERS[path.suffix](path)
        except (ValueError, OSError, pl.exceptions.PolarsError) as error:
            raise UserError(f"{path} cannot be read as a table of vectors: {error}") from None
    else:
        raise UserError(f"no embedding table at {path}: a folder with table.json, or a .parquet, .npy or .npz file")
    if vectors.ndim != 2 or len(ids) != len(vectors):
        raise UserError(f"{path}: {len(ids)} ids for vectors of shape {vectors.shape}, not (ids, size)")
    if info and info["count"] != len(ids):
        raise UserError(f"{path}: {len(ids)} vectors, but table.json promises {info['count']}; export it again")
    if len({str(item) for item in ids}) != len(ids):
        raise UserError(f"{path}: some item ids stand more than once; each item needs exactly one vector")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        bad = [ids[row] for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:5]]
        raise UserError(f"{path}: vectors with NaN or infinite values, for example of the items {bad}")
    return EmbeddingTable(ids, vectors, info)
