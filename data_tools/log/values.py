"""The values of a behaviour log: read, and every row judged, as ibis expressions that run on any engine.

Ids: those of text files are text and stay text, so that "007" is not "7"; those of Parquet keep their type (text or
integer). The item ids of a log and of its item list are compared as text.
Times: numbers are rounded down and keep their unit; dates, timestamps and ISO text become seconds since 1970, UTC
unless they say otherwise. All times of a log have one unit: rows of another are set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_tools.common.cli import UserError
from data_tools.log.engines import ROW

IDS = ("user_id", "item_id", "request_id")
OPTIONAL = ("scene", "position", "conversion", "oracle")
MICRO = 1_000_000
# Without these two, engines differ: one takes "1d" for a number, the other "12:30" for a time of today.
NUMBER = r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$"
MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-2][0-9]:[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?"
    r"( ?(Z|UTC|[+-][0-2][0-9](:?[0-5][0-9])?))?)?$"
)
# Seconds reach the year 5138 before they look like milliseconds, which look so from 1973 on.
UNITS = {"seconds": 10**11, "milliseconds": 10**14, "microseconds": 10**17, "nanoseconds": 2**63}


def _number(value: ir.Value) -> ir.Value:
    """As float64; null where it is no finite number."""
    if value.type().is_string():
        text = value.strip()
        value = text.re_search(NUMBER).ifelse(text, ibis.null("string"))
    number = value.try_cast("float64")
    return (number.isnan() | number.isinf()).ifelse(ibis.null("float64"), number)


def _whole(value: ir.Value) -> ir.Value:
    """As int64, rounded down; null where it is no finite number."""
    if value.type().is_integer():
        return value.try_cast("int64")
    number = _number(value)
    whole = number.between(-9.2e18, 9.2e18).ifelse(number, ibis.null("float64")).floor().try_cast("int64")
    if value.type().is_string():
        # Not by way of float64, which holds no more than 53 bits.
        text = value.strip()
        return text.re_search(r"^[+-]?[0-9]+$").ifelse(text, ibis.null("string")).try_cast("int64").coalesce(whole)
    return whole


def _digits(text: ir.Value) -> ir.Value:
    """As int64, 0 for no digits at all."""
    return text.try_cast("int64").coalesce(0)


def _moment(value: ir.Value) -> ir.Value:
    """Seconds since 1970 of ISO text, worked out by hand because engines read different forms; null for other text."""
    text = value.strip()
    text = text.re_search(MOMENT).ifelse(text, ibis.null("string"))
    day = text.substr(0, 10).try_cast("date").cast("timestamp").epoch_seconds().cast("int64")
    hours, rest = _digits(text.substr(11, 2)), text.substr(16, 64)
    seconds = (rest.substr(0, 1) == ":").ifelse(_digits(rest.substr(1, 2)), 0)
    zone = "[+-]([0-9]{2}):?([0-9]{2})?$"
    ahead = _digits(rest.re_extract(zone, 1)) * 3600 + _digits(rest.re_extract(zone, 2)) * 60
    utc = day + hours * 3600 + _digits(text.substr(14, 2)) * 60 + seconds - rest.contains("-").ifelse(-ahead, ahead)
    return (hours < 24).ifelse(utc, ibis.null("int64"))


def read_time(value: ir.Value, unit: str = "auto") -> ir.Value:
    """Times as int64 (see the head of this module); null where they cannot be read.

    Parameters
    ----------
    unit : dates and ISO text become milliseconds where it is "milliseconds"
    """
    scale = 1000 if unit == "milliseconds" else 1
    if value.type().is_timestamp() or value.type().is_date():
        return value.cast("timestamp").truncate("s").epoch_seconds().cast("int64") * scale
    if value.type().is_string():
        return _whole(value).coalesce(_moment(value) * scale)
    return _whole(value)


def time_unit(timestamp: ir.Value) -> ir.Value:
    """The unit that a time has by its size: a key of ``UNITS``."""
    return ibis.cases(
        *((timestamp.between(-most, most), unit) for unit, most in list(UNITS.items())[:-1]), else_="nanoseconds"
    )


def _label(value: ir.Value) -> ir.Value:
    if value.type().is_integer():
        yes, no = value == 1, value == 0
    else:
        text = value.cast("string").strip().lower()
        yes, no = text.isin(["1", "1.0", "true"]), text.isin(["0", "0.0", "false"])
    return ibis.cases((yes, 1), (no, 0)).cast("int8")


def _probability(value: ir.Value) -> ir.Value:
    number = _number(value)
    return number.between(0, 1).ifelse(number, ibis.null("float64"))


def _rating(value: ir.Value) -> ir.Value:
    # In whole millionths, because the sum of floats depends on their order.
    number = _number(value)
    return (number.between(-1e9, 1e9).ifelse(number, ibis.null("float64")) * MICRO).round().try_cast("int64")


_READ: dict[str, Callable[[ir.Value], ir.Value]] = {
    "click": _label,
    "rating": _rating,
    "conversion": _label,
    "position": lambda value: _whole(value).try_cast("int32"),
    "oracle": _probability,
}
_UNREADABLE = {
    "click": "click not 0 or 1",
    "rating": "rating no number",
    "conversion": "conversion not 0 or 1",
    "oracle": "oracle not in [0, 1]",
}


def _blank_as_null(value: ir.Value) -> ir.Value:
    return (value.strip() == "").ifelse(ibis.null("string"), value) if value.type().is_string() else value


def _keyed(catalogue: ir.Table, kind: dt.DataType) -> ir.Table:
    """The catalogue with keys of the type of a log's item ids. An integer is the id that is written like it: 7 is "7",
    not "007". Reading the few keys as numbers spares writing every number of a long log as text."""
    if kind.is_string():
        return catalogue
    number = catalogue.key.try_cast(kind)
    alike = catalogue.filter(number.cast("string") == catalogue.key)
    return alike.mutate(key=alike.key.try_cast(kind))


def judge(log: ir.Table, columns: Mapping[str, str], catalogue: ir.Table, unit: str, where: str) -> ir.Table:
    """Read the values of a log and find the faults that a row shows by itself.

    Parameters
    ----------
    log : with ``__row__``, as an engine reads it
    columns : our names to those of the log; without ``timestamp`` the order of the log is the time
    catalogue : ``item`` (int32) and ``key`` (its id as text)
    unit : of times, as :func:`read_time` takes it

    Returns
    -------
    table of ``row`` (int64), ``item`` (int32), ``fault`` (text, null for none; of several the first) and the columns
    named, read: timestamp int64, click and conversion int8, rating int64 (millionths), position int32, oracle
    float64, others as they are; item_id is left to the catalogue

    Raises
    ------
    UserError
        If ids are neither text nor integers.
    """
    given = {ours: _blank_as_null(log[theirs]) for ours, theirs in columns.items()}
    for name in filter(given.__contains__, IDS):
        kind = given[name].type()
        if kind.is_decimal() and kind.scale == 0:
            continue  # what Spark takes unsigned integers for
        if not (kind.is_string() or kind.is_integer()):
            raise UserError(f"{where}: column '{columns[name]}' ({name}) is {kind}; store ids as text or as integers")
    read = _READ | {"timestamp": lambda value: read_time(value, unit)}
    values = {name: read[name](value) if name in read else value for name, value in given.items()}
    needed = [name for name in ("user_id", "item_id", "timestamp", "click", "rating", "request_id") if name in given]
    faults = [(given[name].isnull(), f"{name} missing") for name in needed]
    faults += [
        (given[name].notnull() & values[name].isnull(), _UNREADABLE.get(name, f"{name} unreadable"))
        for name in ("timestamp", "click", "rating", *OPTIONAL)
        if name in read and name in given
    ]
    values.setdefault("timestamp", log[ROW])
    values["key"] = values.pop("item_id")
    read = log.select(row=log[ROW], **values, fault=ibis.cases(*faults))
    known = read.left_join(_keyed(catalogue, read.key.type()), "key")
    fault = known.fault.coalesce(known.item.isnull().ifelse("item unknown", ibis.null("string")))
    return known.mutate(fault=fault).drop("key", "key_right")


def repeated(rows: ir.Table) -> ir.Table:
    """The ``row`` of each row whose user, item, time and, where there is one, request_id stood in a row above."""
    keys = [name for name in ("user_id", "item", "timestamp", "request_id") if name in rows.columns]
    # First the few keys that stand twice, because a group of every key is what takes memory.
    several = rows.group_by(keys).agg(times=rows.count())
    among = rows.semi_join(several.filter(several.times > 1), keys)
    place = ibis.row_number().over(ibis.window(group_by=keys, order_by="row"))
    return among.mutate(place=place).filter(ibis._.place > 0).select("row")


def set_aside(log: ir.Table, bad: ir.Table) -> ir.Table:
    """The unusable rows: ``reason``, ``input_row`` (from 0) and all that stood in the log, as text."""
    named = bad.select(__place__="row", __reason__="reason")
    joined = log.join(named, log[ROW] == named["__place__"])
    originals = {
        f"{name}_" if name in ("reason", "input_row") else name: joined[name].cast("string")
        for name in log.columns
        if name != ROW
    }
    return joined.select(reason=joined["__reason__"], input_row=joined[ROW], **originals).order_by("input_row")


def count_reasons(bad: ir.Table) -> ir.Table:
    """``reason`` and ``rows``, most frequent first."""
    counts = bad.group_by("reason").agg(rows=bad.count())
    return counts.order_by(ibis.desc("rows"), "reason")
