"""Embedding tables: item ids and their vectors, with where they came from.

Our own form is a folder of Parquet parts (``item_id``, ``embedding`` as a fixed-size list of float16 or float32) and
``table.json`` (count, size, dtype, the digest of each part, normalised, layer, encoder, preprocessing, weights,
checkpoint, dataset and ``saw_until``, see :mod:`data_tools.tables.seen`).
Tables made elsewhere load too: :mod:`data_tools.convert_table` lists the layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data_tools.common.cli import UserError
from data_tools.common.files import check_digests, digests, read_json, whole_folder, write_json
from data_tools.common.hints import hint
from data_tools.common.scratch import column_means, pieces, release, scratch_array, selected
from data_tools.tables.frames import read_parquet, write_parquet
from data_tools.tables.here import here
from data_tools.tables.layouts import LAYOUTS, layout_of

ID_TYPES = (str, int, np.integer, date, Decimal)
SHORTEST = 1e-12  # length of a vector that is not taken for zeros


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of items.

    Attributes
    ----------
    ids : list
        Item ids as given in the log, N strings or integers.
    vectors : float32 array (N, D), memory-mapped where it is large
    info : dict of str to any
        What ``table.json`` says of them; empty for tables made elsewhere.
    notes : tuple
        What was inferred about a table made elsewhere, to be reported.
    """

    ids: list[Any]
    vectors: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lookup(self, item_ids: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors in the order of ``item_ids``.

        Ids are compared as text, so that 7 of one file finds "7" of another. A large result is on disk.

        Returns
        -------
        vectors : float32 array (M, D), zeros where the table lacks the item
        found : bool array (M,)
        """
        known = pl.DataFrame({"id": _as_text(self.ids), "row": np.arange(len(self.ids))})
        wanted = pl.DataFrame({"id": _as_text(item_ids)})
        rows = wanted.join(known, on="id", how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
        found = rows >= 0
        vectors = scratch_array((len(rows), self.vectors.shape[1]))
        for piece in pieces(len(rows)):
            vectors[piece][found[piece]] = self.vectors[rows[piece][found[piece]]]
            release(vectors, self.vectors)
        return vectors, found


def _as_text(ids: Sequence[Any]) -> pl.Series:
    return pl.Series([str(item) for item in ids], dtype=pl.String)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) brought to length one, float32; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, SHORTEST)).astype(np.float32)


def centred(vectors: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Vectors (N, D) brought to length one, less the mean of the ``fitted`` (bool (N,)) of them: float32.

    Contrastive embeddings lie in a narrow cone (COURIER's have mean cosines of .9): all cosines are alike, and part of
    what is left says how near the cone's axis an item lies, whoever the user. Without the mean they say what two items
    have in common (the first step of Mu and Viswanath, "All-but-the-top", 2018).
    """
    moved = scratch_array(vectors.shape)
    for piece in pieces(len(vectors)):
        moved[piece] = unit_vectors(vectors[piece])
    mean = column_means(selected(moved, np.flatnonzero(fitted)))
    for piece in pieces(len(vectors)):
        moved[piece] -= mean
    return moved


def write_part(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """Write one Parquet part of a table: ``ids`` (n) and ``vectors`` (n, D) of float16 or float32."""
    write_parquet(path, ids, vectors)


def write_table(folder: str | Path, ids: Sequence[Any], vectors: np.ndarray, info: dict[str, Any]) -> None:
    """Write a whole table of one part; ``info`` is joined into ``table.json``."""
    with whole_folder(folder) as scratch:
        write_part(scratch / "part-00000.parquet", ids, vectors)
        described = describe(*vectors.shape, str(vectors.dtype), folder=scratch)
        write_json(scratch / "table.json", {**described, **info})


def describe(count: int, size: int, dtype: str, folder: Path | None = None) -> dict[str, Any]:
    """The part of ``table.json`` that every table has; with the digests of the parts in ``folder``."""
    described = {"format_version": 1, "count": count, "size": size, "dtype": dtype}
    if folder is None:
        return described
    return {**described, "parts": {part.name: found for part, found in digests(_parts(folder)).items()}}


def _check_parts(folder: Path, promised: dict[str, str]) -> None:
    """Raise a UserError if a part is missing, too many, or not as it was written."""
    found = {part.name for part in _parts(folder)}
    if missing := sorted(promised.keys() - found):
        raise UserError(f"{folder} lacks {', '.join(missing)}, which table.json promises; export it again")
    if more := sorted(found - promised.keys()):
        raise UserError(f"{folder} holds {', '.join(more)}, which table.json does not know; remove it")
    check_digests({folder / name: promised[name] for name in promised}, "table.json", "copy it again, or export again")


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _read_parts(folder: Path) -> tuple[list[Any], np.ndarray]:
    parts = _parts(folder)
    rows = sum(pq.read_metadata(part).num_rows for part in parts)
    ids: list[Any] = []
    sizes, vectors = set[int](), np.zeros((0, 0), dtype=np.float32)
    for part in parts:
        own, read = read_parquet(part)
        sizes.add(read.shape[1])
        if len(sizes) == 1:
            vectors = vectors if len(ids) else scratch_array((rows, read.shape[1]), folder=folder)
            vectors[len(ids) : len(ids) + len(own)] = read
            release(vectors)
        ids += own
    if len(sizes) != 1:
        raise UserError(f"{folder}: parts with embeddings of the sizes {sorted(sizes)}; all must have the same")
    return ids, vectors


def read_table(path: str | Path, layout: str | None = None) -> EmbeddingTable:
    """Read a table of our own form or one made elsewhere, in a layout that the suffix tells unless it is named.

    Raises
    ------
    UserError
        If there is none, or it has missing or repeated ids, another number of ids than of vectors, vectors that are no
        numbers or of several sizes, or values that are not finite as float32.
    """
    path = here(path)
    info: dict[str, Any] = {}
    try:
        if (path / "table.json").exists() and not layout:
            info = read_json(path / "table.json")
            if "parts" in info:
                _check_parts(path, info["parts"])
            ids, vectors = _read_parts(path)
        elif path.exists() and (found := layout_of(path, layout)):
            ids, vectors = LAYOUTS[found].read(path)
        else:
            suffixes = ", ".join(suffix for known in LAYOUTS.values() for suffix in known.suffixes)
            there = "its ending tells no layout" if path.exists() else "there is nothing"
            raise UserError(
                f"no embedding table at {path}: {there}; must be a folder with table.json, or a file in {suffixes}"
                + hint(" (or name a --layout)")
            )
        vectors = _flat(vectors)
        if not isinstance(vectors, np.ndarray):  # damaged archives give bytes
            raise ValueError(f"it holds {type(vectors).__name__}, not an array")
    except UserError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # damaged files raise nearly anything
        raise UserError(
            f"{path} cannot be read as a table of vectors: {str(error).strip().partition(chr(10))[0]}"
        ) from None
    notes = []
    if not info:
        ids, vectors, notes = _without_missing(ids, vectors)
    vectors = _checked(ids, vectors, path)
    found = {"count": len(ids), "size": vectors.shape[1]}
    if info and (promised := {name: info.get(name) for name in found}) != found:
        raise UserError(f"{path}: {found} is there, but table.json promises {promised}; export it again")
    return EmbeddingTable(ids, vectors, info, tuple(notes))


def _flat(vectors: Any) -> Any:
    """Vectors with axes of length 1 beside their own, as networks give them, without these: (N, 1, D) as (N, D)."""
    if isinstance(vectors, np.ndarray) and vectors.ndim > 2 and max(vectors.shape[1:]) == np.prod(vectors.shape[1:]):
        return vectors.reshape(len(vectors), -1)
    return vectors


def _without_missing(ids: list[Any], vectors: np.ndarray) -> tuple[list[Any], np.ndarray, list[str]]:
    """A table without the rows that are null or NaN throughout: their items have no vector; and a note about it."""
    if vectors.ndim != 2 or len(ids) != len(vectors) or vectors.dtype.kind != "f" or not vectors.shape[1]:
        return ids, vectors, []
    missing = np.isnan(vectors).all(axis=1)
    if not missing.any() or missing.all():
        return ids, vectors, []
    kept = [item for item, gone in zip(ids, missing, strict=True) if not gone]
    first = ids[int(missing.argmax())]
    return (
        kept,
        vectors[~missing],
        [f"{missing.sum():,} rows without a vector, as item {first!r}, count as missing"],
    )


def _as_float32(vectors: np.ndarray, folder: Path) -> np.ndarray:
    if vectors.dtype == np.float32 and vectors.flags.c_contiguous:
        return vectors
    converted = scratch_array(vectors.shape, folder=folder)
    with np.errstate(over="ignore"):
        for piece in pieces(len(vectors)):
            converted[piece] = vectors[piece]
    return converted


def _text(item: Any, row: int, path: Path) -> str:
    """An item id as text; of damaged files some are no text: lone surrogates, or numbers beyond all characters."""
    try:
        text = str(item)
        text.encode()
    except (SystemError, UnicodeEncodeError):
        raise UserError(f"{path}: the item id of row {row} is not text; the file is damaged, write it again") from None
    return text


def _check_ids(ids: list[Any], path: Path) -> None:
    """Raise a UserError if ids are missing, stand more than once, or are no ids."""
    text = [None if item is None or item != item else _text(item, row, path) for row, item in enumerate(ids)]
    if missing := [row for row, item in enumerate(text) if item is None or not item.strip()]:
        raise UserError(f"{path}: {len(missing)} rows have no item id, the first is row {missing[0]}")
    if len(set(text)) != len(text):
        repeated = list(dict.fromkeys(pl.Series(text).filter(pl.Series(text).is_duplicated())))
        raise UserError(
            f"{path}: {len(repeated)} item ids occur more than once, for example {repeated[:5]}; each item needs "
            "exactly one vector"
        )
    if (odd := next((item for item in ids if not isinstance(item, ID_TYPES)), None)) is not None:
        raise UserError(f"{path}: item ids such as {odd!r} are neither text nor whole numbers")


def _checked(ids: list[Any], vectors: np.ndarray, path: Path) -> np.ndarray:
    """The vectors as float32, or a UserError that says what is wrong with the table."""
    if not len(ids):
        raise UserError(f"{path} holds no vectors")
    if vectors.ndim != 2 or len(ids) != len(vectors) or not vectors.shape[1]:
        turned = "; transpose them" if vectors.ndim == 2 and vectors.shape[1] == len(ids) else ""
        raise UserError(
            f"{path}: {len(ids)} ids for vectors of shape {vectors.shape}, not (ids, size){turned}; the ids go from "
            f"{ids[0]!r} to {ids[-1]!r}"
        )
    if vectors.dtype.kind not in "fiu":
        brief = " (as numpy writes bfloat16)" if vectors.dtype.kind == "V" else ""
        raise UserError(
            f"{path}: vectors of {vectors.dtype}{brief}; must be floating-point numbers: vectors.astype('float32')"
        )
    _check_ids(ids, path)
    vectors = _as_float32(vectors, path.parent)
    finite, short = np.ones(len(vectors), dtype=bool), np.zeros(len(vectors), dtype=bool)
    for piece in pieces(len(vectors)):
        # The squares, since one whose length is not finite could not be compared with others either.
        squares = np.einsum("nd,nd->n", vectors[piece], vectors[piece])
        finite[piece] = np.isfinite(squares)
        few = squares < SHORTEST**2
        short[piece][few] = vectors[piece][few].any(axis=1)
        release(vectors)
    if not finite.all():
        bad = [ids[row] for row in np.flatnonzero(~finite)[:5]]
        raise UserError(
            f"{path}: {(~finite).sum()} vectors with NaN or infinite values, or too long for float32, for example of "
            f"the items {bad}; leave these items out, or write other values"
        )
    if short.any():
        bad = [ids[row] for row in np.flatnonzero(short)[:5]]
        raise UserError(
            f"{path}: {short.sum()} vectors are shorter than {SHORTEST}, which would count as zeros, for example of "
            f"the items {bad}; multiply all vectors by one number"
        )
    return vectors
