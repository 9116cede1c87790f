"""Embedding tables in files of arrays; readers and writers as in :mod:`data_tools.tables.layouts`."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from data_tools.common.errors import UserError
from data_tools.common.floats import MOST_EXACT
from data_tools.common.tensors import read_tensors, write_tensors
from data_tools.reading.form import find_encoding, sound
from data_tools.reading.opened import opened_text
from data_tools.tables.frames import ID_NAMES, Table

HOLDS_OBJECTS = "it holds objects (a pickle), which are never loaded as they can run code"
# Names under which programs keep ids and vectors: ours, and FuxiCTR's.
NAMES = (("ids", "vectors"), ("key", "value"))


def _pick(arrays: Mapping[Any, Any], path: Path) -> tuple[Any, Any]:
    """The names of ids and vectors: known ones, or those of the only table and the only list that goes with it."""
    last = {str(name).rpartition("/")[2]: name for name in arrays}
    for names in NAMES:
        if set(names) <= set(last):
            return last[names[0]], last[names[1]]
    tables = [name for name, array in arrays.items() if len(array.shape) > 1]
    lists = [name for name, array in arrays.items() if len(tables) == 1 and array.shape == arrays[tables[0]].shape[:1]]
    named = [name for name in lists if str(name).rpartition("/")[2].lower() in ID_NAMES]
    for found in (named, lists):
        if len(tables) == len(found) == 1:
            return found[0], tables[0]
    wanted = " or ".join(f"{ids!r} and {vectors!r}" for ids, vectors in NAMES)
    seen = ", ".join(f"{name} {tuple(array.shape)}" for name, array in sorted(arrays.items(), key=str)[:8])
    hint = "; it is a sparse matrix of scipy, write .toarray()" if "indptr" in last else ""
    raise UserError(
        f"{path} holds {f'the arrays {seen}' if seen else 'no arrays'}; must be {wanted}, or one list of ids and one "
        f"table, or a vector for each id{hint}"
    )


def _joined(arrays: Mapping[Any, Any], path: Path) -> Table:
    """Ids and vectors of arrays by name: see :func:`_pick`; a vector for each id; or one table, with ids beside it."""
    shapes, kinds = {array.shape for array in arrays.values()}, {array.dtype.kind for array in arrays.values()}
    shape = next(iter(shapes), ())
    row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 < len(arrays))
    if row and len(shapes) == 1 and kinds == {"f"}:
        parents = {str(name).rpartition("/")[0] for name in arrays}
        inside = len(parents) == 1 and parents != {""}
        ids = [name.rpartition("/")[2] if inside else name for name in arrays]
        return ids, np.stack([array[:].reshape(-1) for array in arrays.values()])
    if len(arrays) == 1 and len(shape) > 1:
        return _ids_beside(path), next(iter(arrays.values()))[:]
    ids, vectors = _pick(arrays, path)
    return _listed(arrays[ids][:]), arrays[vectors][:]


def _listed(ids: Any) -> list[Any]:
    """Ids as Python has them; whole numbers that a program stored as floating-point ones are whole again."""
    ids = np.asarray(ids)
    if ids.ndim > 1 and ids.size == len(ids):
        ids = ids.reshape(-1)
    if (
        ids.dtype.kind == "f"
        and len(ids)
        and (np.abs(ids) < MOST_EXACT.get(ids.dtype.itemsize, 0)).all()
        and (ids == np.floor(ids)).all()
    ):
        ids = ids.astype(np.int64)
    return [item.decode() if isinstance(item, bytes) else item for item in ids.tolist()]


def id_array(ids: Sequence[Any]) -> np.ndarray:
    """Ids as an array of integers, or else of text: never of objects.

    Raises
    ------
    UserError
        If one ends in a zero byte.
    """
    if all(isinstance(item, int) for item in ids) and (whole := np.array(ids)).dtype.kind in "iu":
        return whole
    text = [str(item) for item in ids]
    if bad := next((item for item in text if item.endswith("\0")), None):
        raise UserError(f"the id {bad!r} ends in a zero byte, which arrays of numpy drop; write .parquet or .csv")
    return np.array(text)


def _load(path: Path) -> Any:
    """What numpy saved, but no objects, which it would have to unpickle.

    Raises
    ------
    UserError
        If there are objects.
    """
    try:
        loaded = np.load(path, mmap_mode="r")
        return {name: loaded[name] for name in loaded.files} if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Python objects" not in str(error):
            raise
        if not (start := _start(path)).startswith((b"\x93NUMPY", b"PK", b"\x80")):
            raise UserError(f"{path} is no file of numpy: it begins {start!r}; name it by what it is") from None
        raise UserError(
            f"{path} cannot be read: {HOLDS_OBJECTS}; save ids as text: numpy.array(ids, dtype=str), and vectors as "
            "one array: numpy.stack(vectors)"
        ) from None


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(8)


def read_npy(path: Path) -> Table:
    """Vectors in ``<name>.npy``, ids in ``<name>.ids.npy`` or, one a line, ``<name>.ids.txt``."""
    vectors = _load(path)
    return _ids_beside(path), vectors


def ids_names(path: Path) -> list[str]:
    """Names of files that may hold a table's ids, next to the table."""
    return [f"{path.stem}{mark}ids{suffix}" for mark in "._" for suffix in (".npy", ".txt")]


def _ids_beside(path: Path) -> list[Any]:
    names = ids_names(path)
    for ids in (path.with_name(name) for name in names):
        if ids.exists():
            return _listed(_load(ids)) if ids.suffix == ".npy" else _lines(ids)
    raise UserError(f"{path} needs its item ids in a file next to it, {names[0]} or {names[1]}")


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without a byte-order mark and without blank ones at the end."""
    with opened_text(path, find_encoding(path)) as file:
        text = file.read()
    if not sound(text):
        raise UserError(f"{path} is not UTF-8; save it as UTF-8")
    return text.rstrip().replace("\r\n", "\n").split("\n")


def write_npy(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    np.save(path.with_suffix(".ids.npy"), id_array(ids))
    np.save(path, vectors)


def read_npz(path: Path) -> Table:
    """The arrays ``ids`` and ``vectors`` (ours), ``key`` and ``value`` (FuxiCTR), or the only two that fit together; an
    array for each item, called by its id; or one table with ids beside it as for ``.npy``."""
    return _joined(_load(path), path)


def write_npz(path: Path, ids: Sequence[Any], vectors: np.ndarray, names: Sequence[str] = NAMES[0]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **{names[0]: id_array(ids), names[1]: vectors})


def read_h5(path: Path) -> Table:
    """The data sets ``key`` and ``value`` (FuxiCTR), ``ids`` and ``vectors``, the only two that fit together, in any
    group; or a data set for each item, called by its id."""
    found: dict[str, h5py.Dataset] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, one: found.update({name: one}) if isinstance(one, h5py.Dataset) else None)
        return _joined(found, path)


def write_h5(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    keys = id_array(ids)
    with h5py.File(path, "w") as file:
        file["key"] = np.strings.encode(keys, "utf-8") if keys.dtype.kind == "U" else keys
        file["value"] = vectors


def read_torch(path: Path) -> Table:
    """Tensors alone: ids and vectors in a dict or a pair, a vector for each id in a dict, or one table of vectors (as
    the weights of an embedding are), with ids in a file as for ``.npy``."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = HOLDS_OBJECTS if isinstance(error, pickle.UnpicklingError) else re.split(r"\. |\n", str(error))[0]
        raise UserError(f"{path} is not a file of plain tensors: {reason}; save a dict of tensors") from None
    if isinstance(found, tuple | list) and len(found) == 2:
        found = {"ids": found[0], "vectors": found[1]}
    if isinstance(found, torch.Tensor):
        return _ids_beside(path), _array(found)
    while isinstance(found, dict) and len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner  # such as {"state_dict": ...}
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}; must be a dict with ids and vectors")
    arrays = {name: _array(one) for name, one in found.items() if isinstance(one, torch.Tensor | list | tuple)}
    return _joined(arrays, path)


def read_safetensors(path: Path) -> Table:
    """A vector for each id, two tensors that fit together, or one table with ids beside it as for ``.npy``."""
    held = read_tensors(path, "copy it again, or write it again")
    return _joined({name: _array(one) for name, one in held.items()}, path)


def write_safetensors(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """One tensor ``vectors``, with ids beside it: the format holds no text."""
    np.save(path.with_suffix(".ids.npy"), id_array(ids))
    write_tensors(path, {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))})


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach()  # such as the weights of an embedding
    value = value.dequantize() if value.is_quantized else value.to_dense() if value.layout != torch.strided else value
    return (value.float() if value.is_floating_point() else value).numpy()


def write_torch(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    torch.save({"ids": id_array(ids).tolist(), "vectors": torch.from_numpy(np.ascontiguousarray(vectors))}, path)


def read_faiss(path: Path) -> Table:
    """A faiss index that can give its vectors back; ids are its own (of an IndexIDMap, or of lists other than 0, 1, 2,
    ...), or in a file as for ``.npy``."""
    import faiss  # here, since few tables are indices and its threads are unwelcome in training

    try:
        index = faiss.read_index(str(path))
        if isinstance(index, faiss.IndexIDMap):
            inner = faiss.downcast_index(index.index)
            return faiss.vector_to_array(index.id_map).tolist(), inner.reconstruct_n(0, index.ntotal)
        if (ivf := faiss.try_extract_index_ivf(index)) is not None:
            held = ivf.invlists
            lists = (faiss.rev_swig_ptr(held.get_ids(one), held.list_size(one)).copy() for one in range(ivf.nlist))
            ids = np.sort(np.concatenate(list(lists)))
            if not np.array_equal(ids, np.arange(len(ids))):  # reconstruct_n would leave memory as it was
                ivf.set_direct_map_type(faiss.DirectMap.Hashtable)
                return ids.tolist(), index.reconstruct_batch(ids)
        return _ids_beside(path), index.reconstruct_n(0, index.ntotal)
    except RuntimeError as error:
        raise UserError(f"{path} is not a faiss index that vectors can be reconstructed from: {error}") from None


def write_faiss(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """Inner-product search over all vectors: ids inside if they are integers of 64 bits, otherwise in a file."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    keys = id_array(ids)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if keys.dtype.kind == "i":
        index = faiss.IndexIDMap2(index)
        index.add_with_ids(vectors, keys.astype(np.int64))
    else:
        np.save(path.with_suffix(".ids.npy"), keys)
        index.add(vectors)
    faiss.write_index(index, str(path))
