"""What the columns of a log mean where that is not plain, found in the whole of the log and said.

Ids that a program stored as floating-point numbers, labels spelt Y and N, times in one of many forms. Nothing is
guessed from a sample, and only what the column itself makes certain is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import polars as pl

from data_tools.common.errors import UserError
from data_tools.log.engines import Engine
from data_tools.log.numbers import number
from data_tools.log.time_forms import time_form
from data_tools.log.times import TimeForm

IDS = ("user_id", "item_id", "request_id")
MATCHES = ("exact", "stripped", "unpadded")
YES, NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
MINUS = "-1"
MOST_EXACT = 2**53  # of whole numbers as float64


@dataclass(frozen=True)
class LabelForm:
    """What counts as a click.

    Attributes
    ----------
    yes, no : tuple of str
        Values as :func:`label_text` has them; "no" is empty where all others are none.
    null_is_no : bool
        Whether nothing is no click.
    """

    yes: tuple[str, ...] = YES
    no: tuple[str, ...] = NO
    null_is_no: bool = False


@dataclass(frozen=True)
class Understood:
    """How the columns of a log are read.

    Attributes
    ----------
    time : TimeForm
    label : LabelForm
        Of the column click.
    whole_ids : frozenset of str
        The columns of ids that hold whole numbers in another type: floats, or text such as "12.0".
    match : str
        How ids are compared, one of ``MATCHES``.
    notes : tuple of str
        What was understood, to be said.
    """

    time: TimeForm = TimeForm()
    label: LabelForm = LabelForm()
    whole_ids: frozenset[str] = frozenset()
    match: str = "exact"
    notes: tuple[str, ...] = ()


def label_text(value: ir.Value) -> ir.Value:
    """Labels as lower-case text, whole numbers without a fraction: 1.0 and "1" alike."""
    if value.type().is_boolean():
        return value.ifelse("1", "0")
    text, found = value.cast("string").strip().lower(), number(value)
    exact = (found == found.floor()) & (found.abs() < MOST_EXACT)
    return exact.ifelse(found.try_cast("int64").cast("string"), text)


def understand(
    run: Engine,
    log: ir.Table,
    columns: Mapping[str, str],
    where: str,
    *,
    time_unit: str = "auto",
    day_first: bool | None = None,
    click_values: str = "",
    match: str = "exact",
    bad_share: float = 0.05,
) -> Understood:
    """Look through a log for what its columns mean.

    Parameters
    ----------
    run : Engine
    log : ibis table
    columns : dict of str to str
        Our names -> those of the log.
    where : str
        The log, for messages.
    time_unit : str
        What numbers in the column timestamp are, where that is not to be found out.
    day_first : bool, optional
        Whether dates such as 05/04/2023 begin with the day.
    click_values : str
        The values of the column click that are clicks, with commas between; all others are none.
    match : str
        How ids are compared, one of ``MATCHES``.
    bad_share : float
        More rows than this share without a label are no mistakes.

    Raises
    ------
    UserError
        If a column cannot be used, or could mean two things.
    """
    notes: list[str] = []
    time = TimeForm(time_unit, strict=False)
    if "timestamp" in columns:
        column = log[columns["timestamp"]]
        time = time_form(run, column, time_unit, day_first, f"{where}, column '{columns['timestamp']}'")
    label = LabelForm()
    if "click" in columns:
        label, notes = _label_form(run, log[columns["click"]], click_values, bad_share)
    ids = {name: columns[name] for name in IDS if name in columns}
    whole_ids, more = _whole_ids(run, log, ids, where)
    return Understood(time, label, whole_ids, match, (*time.notes, *notes, *more))


def _label_form(run: Engine, column: ir.Value, values: str, bad_share: float) -> tuple[LabelForm, list[str]]:
    """What counts as a click in a column, and what is worth saying of it."""
    if values:
        yes = tuple(value.strip().lower() for value in values.split(",") if value.strip())
        return LabelForm(yes, ()), []
    text = label_text(column)
    text = (text == "").ifelse(ibis.null("string"), text)
    counts = {name: text.isin(known).sum() for name, known in (("yes", YES), ("no", NO), ("minus", (MINUS,)))}
    counts |= {"nulls": text.isnull().sum(), "rows": text.isnull().count()}
    found = run.rows(column.as_table().agg(**counts)).row(0, named=True)
    found = {name: count or 0 for name, count in found.items()}
    others = found["rows"] - found["yes"] - found["no"] - found["minus"] - found["nulls"]
    if found["yes"] and not found["no"] and not others:
        if found["minus"]:
            return LabelForm(YES, (*NO, MINUS)), ["labels of -1 are read as no click"]
        if found["nulls"] > bad_share * found["rows"]:
            return LabelForm(null_is_no=True), ["rows without a label are read as no click: the others are all clicks"]
    return LabelForm(), []


def _whole_ids(run: Engine, log: ir.Table, ids: Mapping[str, str], where: str) -> tuple[frozenset[str], list[str]]:
    """The columns of ids whose values are all whole numbers in another type, and what is said of them."""
    counts, kinds = {}, {}
    for name, column in ids.items():
        value, kinds[name] = log[column], log[column].type()
        kind = kinds[name]
        if kind.is_string():
            text = value.strip()
            counts[name] = text.re_search(r"^-?[0-9]+[.]0+$").sum()
            counts[f"{name} given"] = (text != "").sum()
        elif kind.is_floating() or kind.is_decimal():
            found = value.cast("float64")
            counts[name] = ((found == found.floor()) & (found.abs() <= MOST_EXACT)).sum()
            counts[f"{name} given"] = found.count() - found.isnan().sum() if kind.is_floating() else found.count()
        elif not (kind.is_integer() or kind.is_uuid()):
            raise UserError(f"{where}: column '{column}' ({name}) is {kind}; store ids as text or as integers")
    if not counts:
        return frozenset(), []
    found = run.rows(log.agg(**counts)).row(0, named=True)
    whole_ids = {name for name in ids if found.get(name) and found[name] == found[f"{name} given"]}
    for name, column in ids.items():
        kind = kinds[name]
        plain = kind.is_decimal() and kind.scale == 0
        if (kind.is_floating() or kind.is_decimal()) and not plain and name not in whole_ids and found[f"{name} given"]:
            value = log[column].cast("float64")
            odd = value.as_table().filter(value != value.floor()).select(value=value).limit(3)
            shown = run.rows(odd)["value"].to_list() or "larger than 2^53"
            raise UserError(
                f"{where}: column '{column}' ({name}) is {kind} with values that are no whole numbers, {shown}; store "
                "ids as text or as integers"
            )
    said = [
        f"{ids[name]} holds whole numbers as {kinds[name]}, and they are read as such: 12.0 is 12"
        for name in sorted(whole_ids)
        if not kinds[name].is_decimal()
    ]
    return frozenset(whole_ids), said


def read_id(name: str, value: ir.Value, understood: Understood) -> ir.Value:
    """The values of a column of ids as text or as integers, as they are compared."""
    kind = value.type()
    if name in understood.whole_ids:
        value = value.strip().re_replace(r"[.]0+$", "") if kind.is_string() else value.try_cast("int64")
    elif kind.is_decimal():
        value = value.cast("string")
    elif kind.is_uuid():
        value = value.cast("string")
    if value.type().is_string() and understood.match != "exact":
        value = value.strip()
        if name == "item_id" and understood.match == "unpadded":
            value = value.re_extract("^0*(.+)$", 1)
    return value


def catalogue_keys(catalogue: pl.DataFrame, match: str) -> pl.Series:
    """The ids of a catalogue as text, as they are compared.

    Raises
    ------
    UserError
        If two items are then alike.
    """
    keys = catalogue["item_id"].cast(pl.String)
    if match != "exact":
        keys = keys.str.strip_chars()
    if match == "unpadded":
        keys = keys.str.extract("^0*(.+)$", 1)
    if keys.is_duplicated().any():
        alike = catalogue.filter(keys.is_duplicated())["item_id"].head(4).to_list()
        raise UserError(f"--match-ids {match} makes items of the item list alike: {alike}; compare them as they are")
    return keys
