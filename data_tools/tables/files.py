"""Embedding tables in common files; readers and writers as in :mod:`data_tools.tables.layouts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.cli import UserError

Table = tuple[list[Any], np.ndarray]
# Names under which programs keep ids and vectors: ours, and FuxiCTR's.
NAMES = (("ids", "vectors"), ("key", "value"))
PARQUET = ("item_id", "embedding")


def _pick(found: Sequence[str], path: Path) -> tuple[str, str]:
    for names in NAMES:
        if set(names) <= set(found):
            return names
    wanted = " or ".join(f"{ids!r} and {vectors!r}" for ids, vectors in NAMES)
    raise UserError(f"{path} holds the arrays {sorted(found)}; {wanted} are expected")


def _listed(ids: np.ndarray) -> list[Any]:
    return [item.decode() if isinstance(item, bytes) else item for item in ids.tolist()]


def id_array(ids: Sequence[Any]) -> np.ndarray:
    """Ids as an array of integers, or else of text: never of objects."""
    return np.array(ids) if all(isinstance(item, int) for item in ids) else np.array([str(item) for item in ids])


def read_npy(path: Path) -> Table:
    """Vectors in ``<name>.npy``, ids in ``<name>.ids.npy`` or, one a line, ``<name>.ids.txt``."""
    return _ids_beside(path), np.load(path, mmap_mode="r")


def _ids_beside(path: Path) -> list[Any]:
    for ids in (path.with_suffix(".ids.npy"), path.with_suffix(".ids.txt")):
        if ids.exists():
            return _listed(np.load(ids)) if ids.suffix == ".npy" else ids.read_text(encoding="utf-8").splitlines()
    raise UserError(f"{path} needs its item ids beside it, as {path.stem}.ids.npy or {path.stem}.ids.txt")


def write_npy(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    np.save(path.with_suffix(".ids.npy"), id_array(ids))
    np.save(path, vectors)


def read_npz(path: Path) -> Table:
    """The arrays ``ids`` and ``vectors`` (ours), or ``key`` and ``value`` (FuxiCTR)."""
    with np.load(path) as arrays:
        ids, vectors = _pick(arrays.files, path)
        return _listed(arrays[ids]), arrays[vectors]


def write_npz(path: Path, ids: Sequence[Any], vectors: np.ndarray, names: Sequence[str] = NAMES[0]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **{names[0]: id_array(ids), names[1]: vectors})


def read_h5(path: Path) -> Table:
    """The data sets ``key`` and ``value`` (FuxiCTR), or ``ids`` and ``vectors``."""
    with h5py.File(path, "r") as file:
        ids, vectors = _pick(list(file), path)
        return _listed(file[ids][:]), file[vectors][:]


def write_h5(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    keys = id_array(ids)
    with h5py.File(path, "w") as file:
        file["key"] = np.strings.encode(keys, "utf-8") if keys.dtype.kind == "U" else keys
        file["value"] = vectors


def read_parquet(path: Path) -> Table:
    """One file with ``item_id`` and ``embedding`` (a list of numbers), or ``key`` and ``value`` (FuxiCTR)."""
    names = PARQUET
    if not set(names) <= set(found := pl.read_parquet_schema(path)):
        names = _pick(list(found), path)
    frame = pl.read_parquet(path, columns=list(names))
    vectors = frame[names[1]].cast(pl.List(pl.Float32))
    lengths = vectors.list.len().unique()
    if len(lengths) > 1 or vectors.null_count():
        raise UserError(f"{path}: embeddings of several sizes {sorted(lengths.to_list(), key=str)}; one is expected")
    return frame[names[0]].to_list(), vectors.explode(empty_as_null=False).to_numpy().reshape(len(frame), -1)


def write_parquet(path: Path, ids: Sequence[Any], vectors: np.ndarray, names: Sequence[str] = PARQUET) -> None:
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
    pq.write_table(pa.table(columns, names=list(names)), path)


def read_faiss(path: Path) -> Table:
    """A faiss index that can give its vectors back; ids are its own (IndexIDMap), or beside it as for ``.npy``."""
    import faiss  # here, since few tables are indices and its threads are unwelcome in training

    try:
        index = faiss.read_index(str(path))
        if isinstance(index, faiss.IndexIDMap):
            inner = faiss.downcast_index(index.index)
            return faiss.vector_to_array(index.id_map).tolist(), inner.reconstruct_n(0, index.ntotal)
        return _ids_beside(path), index.reconstruct_n(0, index.ntotal)
    except RuntimeError as error:
        raise UserError(f"{path} is no faiss index that gives its vectors back: {error}") from None


def write_faiss(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """Inner-product search over all vectors: ids inside where they are integers, otherwise beside it."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    keys = id_array(ids)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if keys.dtype.kind in "iu":
        index = faiss.IndexIDMap2(index)
        index.add_with_ids(vectors, keys.astype(np.int64))
    else:
        np.save(path.with_suffix(".ids.npy"), keys)
        index.add(vectors)
    faiss.write_index(index, str(path))
