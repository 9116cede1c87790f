"""Behaviour logs and item lists as people have them: any column names, CSV or Parquet, some rows unusable.

Ids: those of a CSV are text and stay text, so that "007" is not "7"; those of Parquet keep their type (text or
integer). The item ids of a log and of its item list are compared as text.
Times: integers are taken as they are; dates, timestamps and ISO text become seconds since 1970, UTC unless they say
otherwise.
"""

from __future__ import annotations

import csv
import difflib
import gzip
from collections.abc import Collection, Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
import polars as pl
from ibis.backends.duckdb import Backend

from data_tools.cli import UserError

LOG_COLUMNS = ("user_id", "item_id", "timestamp", "click")
LOG_OPTIONAL = ("request_id", "scene", "position", "conversion", "oracle")
ITEM_COLUMNS = ("item_id", "image")
ITEM_OPTIONAL = ("title", "category", "first_seen")
IDS = ("user_id", "item_id", "request_id")


def _nearest(name: str, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest is '{matches[0]}'" if matches else "there are none"


def parse_columns(text: str, option: str, known: Collection[str]) -> dict[str, str]:
    """Read "user_id=player,click=liked" as {our name: the file's name}.

    Raises
    ------
    UserError
        If a part is no pair, or our name is unknown or stands twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (equals and ours and theirs):
            raise UserError(f"{option}: '{part}' is not of the form name=column, as in user_id=player")
        if ours not in known:
            raise UserError(
                f"{option}: unknown name '{ours}' in '{part}'; known are {list(known)}, {_nearest(ours, known)}"
            )
        if ours in columns:
            raise UserError(f"{option}: '{ours}' is given twice, as '{columns[ours]}' and as '{theirs}'")
        columns[ours] = theirs
    return columns


def resolve_columns(
    named: Mapping[str, str],
    found: Collection[str],
    required: Collection[str],
    optional: Collection[str],
    where: str,
) -> dict[str, str]:
    """Our names to those of a file: as ``named``, else a column that already has our name.

    Raises
    ------
    UserError
        If a named column or a required one is not among those ``found`` in the file.
    """
    for ours, theirs in named.items():
        if theirs not in found:
            raise UserError(
                f"{where} has no column '{theirs}' (named for {ours}); it has {list(found)}, {_nearest(theirs, found)}"
            )
    columns = {ours: ours for ours in (*required, *optional) if ours in found} | dict(named)
    for ours in required:
        if ours not in columns:
            raise UserError(f"{where} has no column '{ours}'; it has {list(found)}; say which one it is: {ours}=COLUMN")
    return columns


def is_csv(path: Path) -> bool:
    """Whether a file is CSV (.csv, .csv.gz) rather than Parquet (.parquet).

    Raises
    ------
    UserError
        If it is neither, or is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file")
    if path.name.endswith((".csv", ".csv.gz")):
        return True
    if path.name.endswith(".parquet"):
        return False
    raise UserError(f"{path} ends neither in .csv, .csv.gz nor .parquet; convert it to one of them")


def _header(path: Path) -> list[str]:
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file))
    except StopIteration:
        raise UserError(f"{path} is empty; a first line with the names of its columns is expected") from None
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; CSV in UTF-8 is expected") from error


def read_items(path: Path, named: Mapping[str, str]) -> pl.DataFrame:
    """Read an item list; known columns get our names, others are carried along.

    Raises
    ------
    UserError
        If the file cannot be read or lacks a column.
    """
    try:
        if is_csv(path):
            text = {named.get(name, name) for name in (*ITEM_COLUMNS, "title", "category")} & set(_header(path))
            frame = pl.read_csv(path, schema_overrides=dict.fromkeys(text, pl.String), infer_schema_length=None)
        else:
            frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).split("\n")[0]  # polars goes on with advice on settings that are not to be had here
        raise UserError(f"{path} cannot be read: {reason}") from error
    columns = resolve_columns(named, frame.columns, ITEM_COLUMNS, ITEM_OPTIONAL, str(path))
    carried = [name for name in frame.columns if name not in columns and name not in columns.values()]
    return frame.select(**columns).hstack(frame.select(carried))


def read_log(engine: Backend, path: Path) -> ir.Table:
    """A log as it stands, every value of a CSV as text, with its order in the file as ``__row__`` (int64, from 0)."""
    if is_csv(path):
        # Nothing is guessed from a sample, so that a file is read the same way however it begins.
        columns = dict.fromkeys(_header(path), "VARCHAR")
        log = engine.read_csv(path, columns=columns, auto_detect=False, header=True, delim=",", quote='"', escape='"')
    else:
        log = engine.read_parquet(path)
    return log.mutate(__row__=ibis.row_number())


def _whole(value: ir.Value) -> ir.Value:
    """As int64, rounded down; null where it is no finite number."""
    if value.type().is_integer():
        return value.try_cast("int64")
    if value.type().is_string():
        # Not by way of float64, which holds no more than 53 bits.
        digits = value.strip().re_search(r"^[+-]?[0-9]+$")
        return digits.ifelse(value.try_cast("int64"), _whole(value.try_cast("float64")))
    number = value.try_cast("float64")
    return (number.isnan() | number.isinf()).ifelse(ibis.null(), number).floor().try_cast("int64")


def seconds(value: ir.Value) -> ir.Value:
    """Times as int64 (see the head of this module); null where they cannot be read."""
    if value.type().is_timestamp() or value.type().is_date():
        return value.cast("timestamp").epoch_seconds()
    if value.type().is_string():
        moment = value.try_cast("timestamp('UTC')").epoch_seconds()
        return value.try_cast("float64").isnull().ifelse(moment, _whole(value))
    return _whole(value)


def _label(value: ir.Value) -> ir.Value:
    text = value.cast("string").strip().lower()
    return ibis.cases((text.isin(["1", "1.0", "true"]), 1), (text.isin(["0", "0.0", "false"]), 0)).cast("int8")


def _probability(value: ir.Value) -> ir.Value:
    number = value.try_cast("float64")
    return number.between(0, 1).ifelse(number, ibis.null())


_READ = {
    "timestamp": seconds,
    "click": _label,
    "conversion": _label,
    "position": lambda value: _whole(value).try_cast("int32"),
    "oracle": _probability,
}
_UNREADABLE = {"click": "click not 0 or 1", "conversion": "conversion not 0 or 1", "oracle": "oracle not in [0, 1]"}


def _blank_as_null(value: ir.Value) -> ir.Value:
    return (value.strip() == "").ifelse(ibis.null(), value) if value.type().is_string() else value


def check_log(log: ir.Table, columns: Mapping[str, str], catalogue: ir.Table, where: str) -> ir.Table:
    """Read the values of a log and find the rows that cannot be used.

    Parameters
    ----------
    log : as :func:`read_log` gives it
    columns : our names to those of the log
    catalogue : ``item`` (int32) and ``key`` (its id as text)

    Returns
    -------
    table of ``row`` (int64), ``item`` (int32), ``reason`` (text, null for a good row; of several the first) and the
    columns named, read: timestamp int64, click and conversion int8, position int32, oracle float64, others as they are

    Raises
    ------
    UserError
        If ids are neither text nor integers.
    """
    given = {ours: _blank_as_null(log[theirs]) for ours, theirs in columns.items()}
    for name in filter(given.__contains__, IDS):
        kind = given[name].type()
        if not (kind.is_string() or kind.is_integer()):
            raise UserError(f"{where}: column '{columns[name]}' ({name}) is {kind}; store ids as text or as integers")
    values = {name: _READ[name](value) if name in _READ else value for name, value in given.items()}
    optional = [name for name in LOG_OPTIONAL if name in columns and name not in IDS]
    faults = [(given[name].isnull(), f"{name} missing") for name in (*LOG_COLUMNS, "request_id") if name in given]
    faults += [
        (given[name].notnull() & values[name].isnull(), _UNREADABLE.get(name, f"{name} unreadable"))
        for name in ("timestamp", "click", *optional)
    ]
    read = log.select(row=log["__row__"], **values, fault=ibis.cases(*faults))

    known = read.left_join(catalogue, read.item_id.cast("string") == catalogue.key).drop("key")
    known = known.mutate(fault=known.fault.coalesce(known.item.isnull().ifelse("item unknown", ibis.null())))
    same = [name for name in (*IDS, "timestamp") if name in columns]
    again = ibis.row_number().over(ibis.window(group_by=[*same, known.fault.isnull()], order_by="row")) > 0
    reason = known.fault.coalesce(again.ifelse("duplicate row", ibis.null()))
    return known.mutate(reason=reason).drop("fault")


def set_aside(log: ir.Table, checked: ir.Table) -> ir.Table:
    """The unusable rows: ``reason``, ``input_row`` (from 0) and all that stood in the log, as text."""
    bad = checked.filter(checked.reason.notnull()).select(__row__="row", __reason__="reason")
    joined = log.join(bad, "__row__")
    originals = {
        f"{name}_" if name in ("reason", "input_row") else name: joined[name].cast("string")
        for name in log.columns
        if name != "__row__"
    }
    return joined.select(reason=joined["__reason__"], input_row=joined["__row__"], **originals).order_by("input_row")


def count_reasons(checked: ir.Table) -> dict[str, int]:
    """How many rows were set aside for each reason, most frequent first."""
    counts = checked.filter(checked.reason.notnull()).group_by("reason").agg(rows=ibis._.count())
    frame = counts.order_by(ibis.desc("rows"), "reason").to_polars()
    return dict(zip(frame["reason"], frame["rows"], strict=True))
