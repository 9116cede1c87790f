"""The values of a behaviour log: read, and every row judged, as ibis expressions that run on any engine.

Ids: those of text files are text and stay text, so that "007" is not "7"; those of Parquet keep their type (text or
integer). The item ids of a log and of its item list are compared as text.
Times: see :mod:`data_tools.log.times`. All times of a log have one unit: rows of another are set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_tools.log.engines import ROW
from data_tools.log.numbers import number, whole
from data_tools.log.times import timed
from data_tools.log.understood import IDS, LabelForm, Understood, label_text, read_id, scene_text
from data_tools.reading.columns import free_names

OPTIONAL = ("scene", "position", "conversion", "oracle")
HIVE_NULL = "\\N"
MICRO = 1_000_000
OTHER_UNIT = "timestamp in another unit"


def _label(text: ir.Value, form: LabelForm) -> ir.Value:
    no = text.isin(form.no) if form.no else text.notnull() & ~text.isin(form.yes)
    return ibis.cases((text.isin(form.yes), 1), (no, 0)).cast("int8")


def _probability(value: ir.Value) -> ir.Value:
    found = number(value)
    return found.between(0, 1).ifelse(found, ibis.null("float64"))


def _rating(value: ir.Value) -> ir.Value:
    # In whole millionths, because the sum of floats depends on their order.
    found = number(value)
    return (found.between(-1e9, 1e9).ifelse(found, ibis.null("float64")) * MICRO).round().try_cast("int64")


_READ: dict[str, Callable[[ir.Value], ir.Value]] = {
    "rating": _rating,
    "conversion": lambda text: _label(text, LabelForm()),
    "scene": scene_text,
    "position": lambda value: whole(value).try_cast("int32"),
    "oracle": _probability,
}
_UNREADABLE = {
    "click": "click not 0 or 1",
    "rating": "rating no number",
    "conversion": "conversion not 0 or 1",
    "oracle": "oracle not in [0, 1]",
}


def _blank_as_null(value: ir.Value) -> ir.Value:
    """Null for what says that there is nothing: blank text, the mark of Hive and MySQL, and the NaN of data frames."""
    if value.type().is_string():
        return value.strip().isin(("", HIVE_NULL)).ifelse(ibis.null("string"), value)
    return value.isnan().ifelse(ibis.null(value.type()), value) if value.type().is_floating() else value


def _keyed(catalogue: ir.Table, kind: dt.DataType) -> ir.Table:
    """The catalogue with keys of the type of a log's item ids. An integer is the id that is written like it: 7 is "7",
    not "007". Reading the few keys as numbers spares writing every number of a long log as text."""
    if kind.is_string():
        return catalogue
    found = catalogue.key.try_cast(kind)
    alike = catalogue.filter(found.cast("string") == catalogue.key)
    return alike.mutate(key=alike.key.try_cast(kind))


def judge(log: ir.Table, columns: Mapping[str, str], catalogue: ir.Table, understood: Understood) -> ir.Table:
    """Read the values of a log and find the faults that a row shows by itself.

    Parameters
    ----------
    log : ibis table
        With ``__row__``, as an engine reads it.
    columns : dict of str to str
        Our names -> those of the log; without ``timestamp`` the order of the log is the time.
    catalogue : ibis table
        ``item`` (int32) and ``key`` (its id as text, as it is compared).
    understood : Understood
        How the columns are read.

    Returns
    -------
    ibis table
        ``row`` (int64), ``item`` (int32), ``fault`` (text, null for none; of several the first) and the columns named,
        read: timestamp int64, click and conversion int8, rating int64 (millionths), position int32, oracle float64,
        others as they are (of scenes, 1.0 as 1); item_id is left to the catalogue.
    """
    given = {ours: _blank_as_null(log[theirs]) for ours, theirs in columns.items()}
    table = log.select(row=log[ROW], **given)
    # In steps, because an expression that is used several times would be worked out, and written, as often.
    table = table.mutate(**{f"__no_{name}__": table[name].isnull() for name in columns})
    table = table.mutate(**{name: label_text(table[name]) for name in ("click", "conversion") if name in columns})
    table = table.mutate(**{name: _READ[name](table[name]) for name in columns if name in _READ})
    table = table.mutate(**{name: read_id(name, table[name], understood) for name in IDS if name in columns})
    if "click" in columns:
        table = table.mutate(click=_label(table.click, understood.label))
    if understood.label.null_is_no:
        table = table.mutate(click=table["__no_click__"].ifelse(ibis.literal(0, "int8"), table.click))
    table = timed(table, understood.time) if "timestamp" in columns else table.mutate(timestamp=table.row)

    allowed = {"click": understood.label.null_is_no, "request_id": understood.some_requests}
    needed = ("user_id", "item_id", "timestamp", "click", "rating", "request_id")
    faults = [
        (table[f"__no_{name}__"], f"{name} missing") for name in needed if name in columns and not allowed.get(name)
    ]
    faults += [(table["__other__"], OTHER_UNIT)] if "timestamp" in columns else []
    faults += [
        (~table[f"__no_{name}__"] & table[name].isnull(), _UNREADABLE.get(name, f"{name} unreadable"))
        for name in ("user_id", "timestamp", "click", "rating", *OPTIONAL)
        if name in columns and name != "scene"
    ]
    table = table.mutate(fault=ibis.cases(*faults)).rename(key="item_id")
    known = table.left_join(_keyed(catalogue, table.key.type()), "key")
    fault = known.fault.coalesce(known.item.isnull().ifelse("item unknown", ibis.null("string")))
    kept = [name for name in columns if name != "item_id"]
    return known.select("row", "item", *kept, *([] if "timestamp" in columns else ["timestamp"]), fault=fault)


def repeated(rows: ir.Table) -> ir.Table:
    """The ``row`` of each row whose user, item, time and, where there is one, request_id stood in a row above."""
    keys = [name for name in ("user_id", "item", "timestamp", "request_id") if name in rows.columns]
    # First the few keys that occur twice, because a group of every key is what takes memory.
    several = rows.group_by(keys).agg(times=rows.count())
    among = rows.semi_join(several.filter(several.times > 1), keys)
    place = ibis.row_number().over(ibis.window(group_by=keys, order_by="row"))
    return among.mutate(place=place).filter(ibis._.place > 0).select("row")


def set_aside(log: ir.Table, bad: ir.Table) -> ir.Table:
    """The unusable rows: ``reason``, ``input_row`` (from 0) and all that stood in the log, as text."""
    named = bad.select(__place__="row", __reason__="reason")
    joined = log.join(named, log[ROW] == named["__place__"])
    own = free_names([name for name in log.columns if name != ROW], ("reason", "input_row"))
    originals = {ours: joined[name].cast("string") for name, ours in own.items()}
    return joined.select(reason=joined["__reason__"], input_row=joined[ROW], **originals).order_by("input_row")


def count_reasons(bad: ir.Table) -> ir.Table:
    """``reason`` and ``rows``, most frequent first."""
    counts = bad.group_by("reason").agg(rows=bad.count())
    return counts.order_by(ibis.desc("rows"), "reason")
