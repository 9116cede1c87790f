"""Numbers in the cells of a log, as ibis expressions: the same of text and of typed columns, on any engine."""

from __future__ import annotations

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

# Without it, engines differ: one takes "1d" for a number.
NUMBER = r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$"


def kind_name(kind: dt.DataType) -> str:
    """What a column of some type holds, in words where the type has none that a user knows."""
    said = str(kind)
    if kind.is_null() or 'kind="NULL"' in said:
        return "empty in every row"
    return "a time of day without a date" if kind.is_time() or "DType.TIME" in said else said


def number(value: ir.Value) -> ir.Value:
    """As float64; null where it is no finite number."""
    if value.type().is_string():
        text = value.strip()
        value = text.re_search(NUMBER).ifelse(text, ibis.null("string"))
    found = value.try_cast("float64")
    return (found.isnan() | found.isinf()).ifelse(ibis.null("float64"), found)


def whole(value: ir.Value) -> ir.Value:
    """As int64, rounded down; null where it is no finite number."""
    if value.type().is_integer():
        return value.try_cast("int64")
    found = number(value)
    rounded = found.between(-9.2e18, 9.2e18).ifelse(found, ibis.null("float64")).floor().try_cast("int64")
    if value.type().is_string():
        # Not by way of float64, which holds no more than 53 bits.
        text = value.strip()
        return text.re_search(r"^[+-]?[0-9]+$").ifelse(text, ibis.null("string")).try_cast("int64").coalesce(rounded)
    return rounded


def digits(text: ir.Value) -> ir.Value:
    """As int64, 0 for no digits at all."""
    return text.try_cast("int64").coalesce(0)
