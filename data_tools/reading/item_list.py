"""Item lists as people have them, pictures in a column of bytes among them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.parquet import scan_parquet
from data_tools.reading import inputs
from data_tools.reading.columns import ITEM_COLUMNS, ITEM_OPTIONAL, free_names, resolve_columns
from data_tools.reading.form import Form, Given
from data_tools.reading.ids import whole_ids
from data_tools.reading.parts import Part, nested_hint

TEXT = ("item_id", "image", "title", "category")
OURS = ("item", *ITEM_COLUMNS, *ITEM_OPTIONAL, "images")  # in items.parquet


@dataclass(frozen=True)
class ItemList:
    """An item list as it was read.

    Attributes
    ----------
    items : polars.DataFrame
        One row an item: known columns by our names, others by their own, or with underscores behind where ours is one
        of these.
    broken : polars.DataFrame
        The lines that are no row.
    pictures : Path, optional
        The folder of the list's own pictures, where its column ``image`` holds bytes.
    notes : list of str
        What was inferred about it, to be reported.
    """

    items: pl.DataFrame
    broken: pl.DataFrame
    pictures: Path | None
    notes: list[str]


def typed(frame: pl.DataFrame, text: set[str]) -> pl.DataFrame:
    """Text columns as numbers where all of their values are, but for those that are to stay text.

    Values such as 007 are codes: as a number it would be the same as 7.
    """

    def as_number(column: pl.Series) -> pl.Series:
        if column.dtype == pl.String and column.str.contains(r"^\s*[+-]?0\d").any():
            return column
        for kind in (pl.Int64, pl.Float64) if column.dtype == pl.String and column.name not in text else ():
            read = column.cast(kind, strict=False)
            if read.null_count() == column.null_count():
                return read
        return column

    return frame.with_columns(as_number(column) for column in frame)


def _spill_bytes(parts: Sequence[Part], column: str, folder: Path) -> pl.Series:
    """Write the pictures of a column of bytes, or of {bytes, path} as some hubs have it, to files; their names."""
    folder.mkdir()
    names: list[str | None] = []
    for part in parts:
        with pq.ParquetFile(part.path) as file:
            if column not in part.names:
                names += [None] * file.metadata.num_rows
                continue
            for block in file.iter_batches(batch_size=256, columns=[column]):
                for value in block.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    names.append(None if data is None else str(len(names)))
                    if data is not None:
                        (folder / names[-1]).write_bytes(data)
    return pl.Series(column, names, pl.String)


def _paths(parts: Sequence[Part], column: str, kinds: Sequence[Any]) -> pl.Series | None:
    """The paths in a column of {bytes, path} without any bytes, as some hubs refer to files; None of other columns."""
    structs = [{one.name for one in kind.fields} for kind in kinds if isinstance(kind, pl.Struct)]
    if len(structs) < len(kinds) or not all({"bytes", "path"} <= names for names in structs):
        return None
    held = pl.concat([scan_parquet(part.path).select(pl.col(column)).unnest(column) for part in parts]).collect()
    return None if held["bytes"].count() else held["path"].rename(column)


@contextlib.contextmanager
def _read_faults(place: str | Path) -> Iterator[None]:
    """Whatever polars cannot read as a UserError."""
    try:
        yield
    except pl.exceptions.DuplicateError as error:
        raise UserError(f"{place} cannot be read: {str(error).splitlines()[0]}; rename all but one") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).split("\n")[0]  # polars adds advice on settings that do not exist here
        raise UserError(f"{place} cannot be read: {reason}") from error


def joined_parts(found: inputs.Found, place: str | Path, instead: Sequence[pl.Series] = ()) -> pl.DataFrame:
    """The rows of all parts of an input under the names that it has for the user.

    Parameters
    ----------
    found : inputs.Found
        Inputs.Found.
    place : str or Path
        For messages.
    instead : sequence of polars.Series
        Columns that are not read, and what takes their place.

    Raises
    ------
    UserError
        If they cannot be read.
    """
    with _read_faults(place):
        without = [column.name for column in instead]
        frame = pl.concat([_read(part, without) for part in found.parts], how="diagonal_relaxed")
    return frame.with_columns(instead).select(**found.columns)


def renamed(
    frame: pl.DataFrame,
    found: inputs.Found,
    columns: Mapping[str, str],
    *,
    text: Collection[str],
    taken: Collection[str],
) -> pl.DataFrame:
    """Known columns by our names, others by their own, and numbers where a file of text has nothing else in a column.

    Parameters
    ----------
    frame, found
        The rows (:func:`joined_parts`), and the input that they are of.
    columns : dict of str to str
        Our names -> those of the input.
    text : collection of str
        Columns that stay text, by the names that they get here.
    taken : collection of str
        Names that get an underscore behind them where another column has them.
    """
    own = free_names([name for name in frame.columns if name not in columns.values()], (*taken, *columns))
    frame = frame.select(**columns, **{ours: theirs for theirs, ours in own.items()})
    return typed(frame, set(text)) if any(part.path != part.source for part in found.parts) else frame


def _read(part: Part, without: Collection[str]) -> pl.DataFrame:
    """A part of an item list, the keys of its folders among its columns."""
    lazy = scan_parquet(part.path).drop(without, strict=False)
    return lazy.with_columns(pl.lit(value, pl.String).alias(name) for name, value in part.keys.items()).collect()


def read_items(
    place: str | Path,
    named: Mapping[str, str],
    work: Path,
    form: Form | None = None,
    wanted: Collection[str] | None = None,
    given: Given | None = None,
) -> ItemList:
    """Read an item list (any form of :mod:`data_tools.reading.inputs`); known columns get our names, others come along.

    Parameters
    ----------
    place : str or Path
    named : dict of str to str
        Our names -> those of the list.
    work : Path
        An empty folder for what is made on the way; it must live until the dataset is written.
    form : Form, optional
        Of text, where it is known for certain.
    wanted : collection of str, optional
        The keys to read of JSON; by default all.
    given : Given, optional
        What a user says of the form of text.

    Raises
    ------
    UserError
        If the files cannot be read or lack a column.
    """
    expected = {*ITEM_COLUMNS, *ITEM_OPTIONAL, *named.values()}
    found = inputs.as_parquet(
        place, work, "items", expected=expected, form=form, wanted=wanted, given=given, every_key=form is None
    )
    if not found.rows:
        raise UserError(f"{place} lists no items: it has no rows")
    try:
        columns = resolve_columns(named, list(found.columns), ITEM_COLUMNS, ITEM_OPTIONAL, str(place))
    except UserError as error:
        raise UserError(f"{error}{nested_hint(found.parts, {*ITEM_COLUMNS, *named.values()})}") from None
    image, pictures = found.columns.get(columns.get("image", "")), None
    with _read_faults(place):
        kinds = [scan_parquet(part.path).collect_schema().get(image) for part in found.parts]
    encoded, spilt = any(kind == pl.Binary or isinstance(kind, pl.Struct) for kind in kinds), []
    if encoded and (paths := _paths(found.parts, image, kinds)) is not None:
        spilt = [paths]
    elif encoded:
        pictures = work / "bytes"
        spilt = [_spill_bytes(found.parts, image, pictures)]
    frame = renamed(joined_parts(found, place, spilt), found, columns, text=TEXT, taken=OURS)
    items, more = whole_ids(frame, "item_id", "the item list")
    return ItemList(items, found.broken, pictures, [*found.notes, *more])


def unique_items(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The catalogue with ``item`` (int32, the row) in front, and the items set aside, each with its ``reason``.

    Columns that have a name of ours get an underscore behind it.

    Raises
    ------
    UserError
        If a column has a type that cannot be used.
    """
    kind = items.schema["item_id"]
    if not (kind == pl.String or kind.is_integer()):
        raise UserError(f"the item list's item_id is {kind}; store ids as text or as integers")
    text = [name for name in ("image", "title", "category") if name in items.columns]
    for name in text:
        if items.schema[name].is_nested() or items.schema[name] == pl.Binary:
            wanted = "a path, or a list of paths, for each item" if name == "image" else "one text an item"
            raise UserError(f"the item list's {name} is {items.schema[name]}; must be {wanted}")
    items = items.with_columns(pl.col(text).cast(pl.String)).with_columns(pl.col("image").replace("", None))
    key = items["item_id"].cast(pl.String)
    missing = key.is_null() | (key.str.strip_chars() == "")
    good = ~missing & key.is_first_distinct()
    reason = pl.select(
        pl.when(missing).then(pl.lit("item_id missing")).otherwise(pl.lit("item_id repeated"))
    ).to_series()
    aside = items.rename(free_names(items.columns, ("reason",)))
    aside = aside.insert_column(0, reason.alias("reason")).filter(~good)
    kept = items.rename(free_names(items.columns, ("item",))).filter(good)
    return kept.insert_column(0, pl.Series("item", range(len(kept)), pl.Int32)), aside
