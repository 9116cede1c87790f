"""Embedding tables in Parquet and CSV: a column of vectors, or a column for each dimension; in lists or in text."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.parquet import read_parquet as read_frame
from data_tools.reading.form import COMMA, DELIMITERS, POINT, find_form
from data_tools.reading.ids import whole_ids
from data_tools.reading.opened import below, opened_text

PARQUET = ("item_id", "embedding")
# Names under which programs keep ids and vectors: ours, and FuxiCTR's.
NAMES = (PARQUET, ("key", "value"), ("ids", "vectors"))
ID_NAMES = ("item_id", "id", "key", "ids", "item", "asin", "iid", "product_id", "__index_level_0__")
LISTS = (pl.List, pl.Array)
MOST_TEXT = 2**31  # bytes of a column of Arrow's strings

Table = tuple[list[Any], np.ndarray]


def read_parquet(path: Path) -> Table:
    """One file with ``item_id`` and ``embedding`` (numbers in a list or in text), ``key`` and ``value`` (FuxiCTR), one
    column of ids and one of lists, or ids and a column for each dimension; or a folder of such files. A null vector
    becomes NaN."""
    parts = below(path, "*.parquet") if path.is_dir() else [path]
    return _from_frame(pl.concat(map(read_frame, parts), how="diagonal_relaxed"), path)


def write_parquet(path: Path, ids: Sequence[Any], vectors: np.ndarray, names: Sequence[str] = PARQUET) -> None:
    flat = pl.Series(np.ascontiguousarray(vectors).reshape(-1)).to_arrow()
    columns = [_id_column(ids), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
    # A dictionary of numbers that hardly repeat takes a third of the time to write, and most of that to read.
    pq.write_table(pa.table(columns, names=list(names)), path, use_dictionary=[names[0]])


def _id_column(ids: Sequence[Any]) -> pa.Array:
    """What ``pa.array`` makes of ids, which imports pandas to see whether they are pandas' own, a fifth of a second.

    Integers beyond 64 bits, or beside text, are text.
    """
    try:
        found = pl.Series(ids)
    except (TypeError, OverflowError):
        found = None
    if found is None or found.dtype == pl.Int128:
        found = pl.Series([str(one) for one in ids])
    column = found.to_arrow()
    if column.type != pa.large_string() or column.nbytes >= MOST_TEXT:
        return column
    _, offsets, text = column.buffers()
    offsets = np.frombuffer(offsets, np.int64, len(ids) + 1).astype(np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), text)


def read_csv(path: Path) -> Table:
    """Delimited text with the columns of :func:`read_parquet`, or, without a header, ids and then numbers."""
    form, names, _ = find_form(path, {name for pair in NAMES for name in pair} | {*ID_NAMES})
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} names the columns {twice} more than once; rename all but one of each")
    bare = len(names) > 2 and all(map(_is_number, names[1:])) and names[1:] != [str(n) for n in range(len(names) - 1)]
    if bare and _is_number(names[0]) and not float(names[0]).is_integer():
        raise UserError(
            f"{path} has numbers alone, the first {names[0]}, and no ids; put these in front of each line: paste "
            f"ids.txt {path} > NEW{path.suffix}"
        )
    with opened_text(path, form.encoding) as file:
        frame = pl.read_csv(
            io.BytesIO(file.read().encode()),
            separator=form.delimiter,
            has_header=False,
            skip_rows=form.skipped + (not bare),
            new_columns=["item_id", *(f"e{n}" for n in range(1, len(names)))] if bare else names,
            infer_schema=False,
        )
    kept = {name for name in frame.columns if name in ID_NAMES}
    numbers = {name: frame[name].cast(pl.Float32, strict=False) for name in frame.columns if name not in kept}
    whole = [column for name, column in numbers.items() if column.null_count() == frame[name].null_count()]
    return _from_frame(frame.with_columns(whole), path)


def write_csv(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """Ids and a column for each dimension, with commas (tabs for .tsv) between."""
    columns = {f"e{number}": column for number, column in enumerate(vectors.astype(np.float32).T)}
    frame = pl.DataFrame({"item_id": pl.Series(ids, strict=False)} | columns)
    frame.write_csv(path, separator=DELIMITERS[path.suffix.lower()])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_frame(frame: pl.DataFrame, path: Path) -> Table:
    ids, vectors = _columns(frame, path)
    if ids == "__index_level_0__":
        frame = frame.rename({ids: "item_id"})
        ids = "item_id"
    if frame[ids].dtype != pl.String:  # text is taken as it is
        frame, _ = whole_ids(frame, ids, "the table")
    keys = frame[ids].to_list()
    if isinstance(vectors, str):
        return keys, _listed(frame[vectors], path)
    return keys, frame.select(pl.col(vectors).cast(pl.Float32)).fill_null(float("nan")).to_numpy()


def _columns(frame: pl.DataFrame, path: Path) -> tuple[str, str | list[str]]:
    """The column of the ids, and that of the vectors or those of the dimensions."""
    for ids, vectors in NAMES:
        if {ids, vectors} <= set(frame.columns):
            return ids, vectors
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, LISTS)]
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    named = [name for name in ID_NAMES if name in frame.columns]
    others = [name for name in frame.columns if name not in lists]
    texts = [name for name in others if name not in numbers]
    ids = named[:1] or next((one for one in (texts, others) if len(one) == 1), [])
    if ids and len(lists) == 1:
        return ids[0], lists[0]
    if ids and not lists:
        stems = Counter(re.sub(r"\d+$", "", name) for name in numbers if name not in ids and name[-1:].isdigit())
        stem = next(iter(stems.most_common(1)), (None, 0))[0]
        wide = [name for name in others if name not in ids and re.fullmatch(re.escape(stem or "") + r"\d+", name)]
        if len(wide) > 1:
            _refuse_text(frame.select(name for name in wide if name in texts), path)
            return ids[0], sorted(wide, key=lambda name: int(name[len(stem) :]))
    kinds = ", ".join(f"{name} ({kind})" for name, kind in list(frame.schema.items())[:8])
    structs = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Struct)]
    spread = f"; spread the column first: .unnest({structs[0]!r})" if structs else ""
    raise UserError(
        f"{path} holds the columns {kinds}{', ...' if frame.width > 8 else ''}; expected are item_id and embedding (a "
        "list of numbers), or item_id and a column for each dimension: e0, e1, ..."
        f"{spread}{next(filter(None, map(_point, frame)), '')}"
    )


def _refuse_text(frame: pl.DataFrame, path: Path) -> None:
    """Raise a UserError if a column that is named as a dimension holds what is no number."""
    for column in frame:
        bad = column.filter(column.is_not_null() & column.cast(pl.Float32, strict=False).is_null())
        if len(bad):
            raise UserError(
                f"{path}: column {column.name!r} is named as a dimension but holds {bad[0]!r}{_point(column)}"
            )


def _point(column: pl.Series) -> str:
    """What to do about numbers with decimal commas."""
    return f"; {POINT}" if column.dtype == pl.String and column.str.contains(COMMA).any() else ""


def _listed(column: pl.Series, path: Path) -> np.ndarray:
    """Vectors in lists, or in text such as "[0.1, 0.2]" or "0.1 0.2"; NaN for null ones."""
    if column.dtype == pl.Binary:
        raise UserError(
            f"{path}: the vectors are bytes; write lists of numbers: numpy.frombuffer(value, dtype='float32').tolist()"
        )
    if column.dtype == pl.String:
        text = column.str.strip_chars(" \t\r\n[](){}").str.replace_all(r"[\s,;|]+", " ")
        if (cut := text.str.contains("...", literal=True).fill_null(False)).any():
            raise UserError(
                f"{path}: vectors are cut short by '...', such as {column.filter(cut)[0][:60]!r}; write all numbers"
            )
        parts = text.str.split(" ")
        column = parts.cast(pl.List(pl.Float32), strict=False)
        if (bad := column.list.eval(pl.element().is_null()).list.any() & parts.is_not_null()).any():
            raise UserError(f"{path}: no vector of numbers in {parts.filter(bad)[0].to_list()[:6]}")
    if isinstance(column.dtype, pl.Struct):
        raise UserError(f"{path}: the vectors are structs; spread them first: .unnest({column.name!r})")
    if not isinstance(column.dtype, LISTS) or isinstance(column.dtype.inner, pl.Struct):
        raise UserError(f"{path}: the vectors are {column.dtype}; write lists of numbers")
    if isinstance(column.dtype.inner, LISTS):
        rows = column.cast(pl.List(column.dtype.inner))
        if (rows.list.len() > 1).any():
            raise UserError(f"{path}: each row has several vectors; write one: numpy.mean(value, axis=0).tolist()")
        column = rows.list.first()
    vectors = column.cast(pl.List(pl.Float32))
    sizes = vectors.list.len().drop_nulls().unique().sort().to_list()
    if len(sizes) != 1:
        raise UserError(f"{path}: embeddings of several sizes {sizes}; all must have the same")
    if vectors.null_count():
        nothing = pl.Series([[float("nan")] * sizes[0]], dtype=pl.List(pl.Float32))
        vectors = pl.select(pl.when(vectors.is_null()).then(nothing).otherwise(vectors)).to_series()
    return vectors.explode(empty_as_null=False).to_numpy().reshape(len(vectors), -1)
