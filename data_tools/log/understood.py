"""What the columns of a log mean where that is not plain, found in the whole of the log and said.

Ids that a program stored as floating-point numbers, labels spelt Y and N, times in one of many forms. Nothing is
guessed from a sample, and only what the column itself makes certain is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.floats import MOST_EXACT
from data_tools.common.hints import hint
from data_tools.common.lists import comma_separated, with_commas
from data_tools.log.engines import Engine
from data_tools.log.numbers import kind_name, number
from data_tools.log.time_forms import time_form
from data_tools.log.times import TimeForm

IDS = ("user_id", "item_id", "request_id")
WHOLE_TEXT = "text of whole numbers"
YES, NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
NOTHING = ("null", "none", "nan", "na", "n/a", "<na>", "undefined")  # words of programs that had no id
MINUS = "-1"
MOST_LABELS = 1000  # that are looked at
# As spreadsheets and float32 write long numbers: with few digits, where others write all of them (1.600000000e+09).
ROUNDED = r"^[0-9][.][0-9]{1,8}[eE][+][0-9]+$"
UNSEEN = r"[\x00\x{ad}\x{200b}-\x{200f}\x{2060}\x{feff}]"  # in ids: zero bytes, soft hyphens, zero-width characters
MOST_ROUNDED = 0.05  # of ids, that are taken as they are


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
    ids : dict of str to str
        Our name of a column of ids -> the type that it is read as, or that it is text of numbers such as "12.0".
    match : str
        How ids are compared: "exact", "stripped" or "unpadded" (see :class:`data_tools.dataset.rules.Rules`).
    some_requests : bool
        Whether so many rows lack a request_id that these are no mistakes.
    notes : tuple of str
        What was inferred, to be reported.
    """

    time: TimeForm = field(default_factory=TimeForm)
    label: LabelForm = field(default_factory=LabelForm)
    ids: Mapping[str, str] = field(default_factory=dict)
    match: str = "exact"
    some_requests: bool = False
    notes: tuple[str, ...] = ()


def label_text(value: ir.Value) -> ir.Value:
    """Labels as lower-case text, whole numbers without a fraction: 1.0 and "1" alike."""
    if value.type().is_boolean():
        return ibis.cases((value, "1"), (~value, "0"))
    text, found = value.cast("string").strip().lower(), number(value)
    # Larger ones are null first: engines cast what floor gives to int64.
    small = (found.abs() < MOST_EXACT[8]).ifelse(found, ibis.null("float64"))
    exact = small == small.floor()
    return exact.ifelse(found.try_cast("int64").cast("string"), text)


def scene_text(value: ir.Value) -> ir.Value:
    """Scenes as they are, but for whole numbers with a fraction: 1.0 is 1, as in a file whose column has no gaps."""
    if value.type().is_string():
        ends = value.strip().re_search(r"^-?[0-9]+[.]0+$")
        return ends.ifelse(value.strip().re_replace(r"[.]0+$", ""), value)
    kind = value.type()
    return label_text(value) if kind.is_floating() or (kind.is_decimal() and kind.scale) else value


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
        The values of the column click that are clicks, with commas between (one that holds a comma in double quotes);
        all others are none.
    match : str
        How ids are compared: "exact", "stripped" or "unpadded" (see :class:`data_tools.dataset.rules.Rules`).
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
        time = replace(time, notes=(*time.notes, *_rounded_times(run, column)))
    label = LabelForm()
    if "scene" in columns and (kind := log[columns["scene"]].type()).is_nested():
        raise UserError(
            f"{where}: column '{columns['scene']}' (scene) is {kind_name(kind)}; must be one text or number"
        )
    if "click" in columns:
        label, notes = _label_form(run, log[columns["click"]], click_values, bad_share, where)
    ids = {name: columns[name] for name in IDS if name in columns}
    forms, more = _id_forms(run, log, ids, where)
    some_requests = "request_id" in ids and _lacking(run, log[ids["request_id"]]) > bad_share
    if some_requests:
        notes.append("many rows lack a request_id: their page views are made of impressions that follow each other")
    return Understood(time, label, forms, match, some_requests, (*time.notes, *notes, *more))


def _rounded_times(run: Engine, column: ir.Value) -> list[str]:
    """What is worth saying of times that lost digits on their way."""
    if column.type().is_floating() and not column.type().is_float64():
        return [f"times are {column.type()}, which holds some seven digits, seconds since 1970 to 128: store float64"]
    if not column.type().is_string():
        return []
    count = run.rows(column.as_table().agg(n=column.strip().re_search(ROUNDED).sum()))["n"][0]
    return [f"{count:,} times such as 1.60E+09 were rounded by a spreadsheet: export them whole"] if count else []


def _lacking(run: Engine, column: ir.Value) -> float:
    """The share of rows without a value in a column; 0 where all lack one."""
    given = (column.strip() != "") if column.type().is_string() else column.notnull()
    share = run.rows(column.as_table().agg(share=given.fill_null(False).cast("int8").mean()))["share"][0]
    return 1 - share if share else 0.0


def _label_form(
    run: Engine, column: ir.Value, values: str, bad_share: float, where: str
) -> tuple[LabelForm, list[str]]:
    """What counts as a click in a column, and what is worth saying of it."""
    if values:
        yes = tuple(filter(None, comma_separated(values.lower())))
        if not yes:
            raise UserError(f"--click-values is {values!r} and names no value; give some, as in purchase,add_to_cart")
        held = _held(run, label_text(column))
        notes = _unheard(held, yes, where)
        empty = set(held) <= {"", *yes} and _lacking(run, column) > bad_share
        notes += ["rows without a label are no clicks, as all others are clicks"] if empty else []
        return LabelForm(yes, (), null_is_no=empty), notes
    table = column.name("given").as_table()
    # In steps, because an expression that is used several times would be worked out, and written, as often.
    table = table.mutate(text=label_text(table.given))
    table = table.mutate(text=(table.text == "").ifelse(ibis.null("string"), table.text))
    text = table.text
    counts = {name: text.isin(known).sum() for name, known in (("yes", YES), ("no", NO), ("minus", (MINUS,)))}
    counts |= {"spelt": text.isin((*YES[2:], *NO[2:])).sum(), "given": text.count(), "rows": text.isnull().count()}
    found = run.rows(table.agg(**counts)).row(0, named=True)
    found = {name: count or 0 for name, count in found.items()}
    notes = ["labels spelt y, yes or t are read as clicks, those spelt n, no or f as none"] if found["spelt"] else []
    if found["yes"] and not found["no"] and found["yes"] + found["minus"] == found["given"]:
        if found["minus"]:
            return LabelForm(YES, (*NO, MINUS)), [*notes, "labels of -1 are read as no click"]
        if found["rows"] - found["given"] > bad_share * found["rows"]:
            return LabelForm(null_is_no=True), [*notes, "rows without a label are no clicks, as all others are clicks"]
    if found["rows"] and found["given"] == found["rows"] and found["rows"] in (found["yes"], found["no"]):
        alike = "a click" + hint(": --unclicked draws impressions without one") if found["yes"] else "without a click"
        notes.append(f"every impression is {alike}")
    return LabelForm(), notes


def _held(run: Engine, text: ir.Value) -> list[str]:
    """The labels of a column, the most frequent first, as many as are looked at."""
    found = text.name("label").as_table().group_by("label").agg(rows=lambda t: t.count())
    return run.rows(found.order_by(ibis.desc("rows"), "label").limit(MOST_LABELS))["label"].drop_nulls().to_list()


def _unheard(held: Sequence[str], yes: Sequence[str], where: str) -> list[str]:
    """What is worth saying of values that are to be clicks and that no row has.

    Raises
    ------
    UserError
        If no row has any.
    """
    lacking = [value for value in yes if value not in held] if len(held) < MOST_LABELS else []
    if lacking == list(yes):
        raise UserError(
            f"{where}: no row has a label of --click-values {with_commas(yes)}; it has {', '.join(map(repr, held[:8]))}"
        )
    return [f"no row has the label {value!r} of --click-values" for value in lacking]


def _id_forms(run: Engine, log: ir.Table, ids: Mapping[str, str], where: str) -> tuple[dict[str, str], list[str]]:
    """What the columns of ids that are neither plain text nor integers are read as, and what is said of it."""
    places = {name: f"{where}: column '{column}' ({name})" for name, column in ids.items()}
    counts = {(name, what): count for name in ids for what, count in _id_counts(log[ids[name]], places[name]).items()}
    asked = {f"{name} {what}": count for (name, what), count in counts.items()}
    answers = run.rows(log.agg(**asked)).row(0, named=True) if asked else {}
    found: dict[str, dict[str, Any]] = {name: {} for name in ids}
    for name, what in counts:
        found[name][what] = answers[f"{name} {what}"]

    forms, words, notes = {}, [], []
    for name, column in ids.items():
        own, kind = found[name], log[column].type()
        if own.get("nothing"):
            words.append(
                f"{own['nothing']:,} rows have a word such as null or nan for {column}, which is taken for an id like "
                "others; leave it empty where there is none"
            )
        if own.get("unseen"):
            words.append(
                f"{own['unseen']:,} rows have a character in {column} that is not seen, such as a zero byte or a "
                "zero-width space: with it an id is another than without"
            )
        if form := _id_form(kind, own, ibis.dtype(run.unsigned), places[name]):
            forms[name] = form
        if form == WHOLE_TEXT:
            notes.append(f"the ids in {column} all end in .0, which is left out: 12.0 is 12")
        elif form and kind.is_floating() and own["given"]:
            notes.append(f"the ids in {column}, {kind}, are all whole numbers and read as such")
    return forms, [*words, *notes]


def _id_counts(column: ir.Value, where: str) -> dict[str, ir.Value]:
    """What is counted of a column of ids: values ``given``, those of them that are ``whole`` numbers, and others.

    Nothing of integers and of UUIDs, which leave no doubt.

    Raises
    ------
    UserError
        If its type cannot hold ids.
    """
    kind, more = column.type(), {}
    if kind.is_integer() or kind.is_uuid():
        return {}
    if kind.is_string():
        given = (column.strip() != "").ifelse(column, ibis.null("string"))
        whole = given.strip().re_search(r"^-?[0-9]+[.]0+$")
        more = {
            "nothing": given.strip().lower().isin(NOTHING).sum(),
            "rounded": given.strip().re_search(ROUNDED).sum(),
            "unseen": given.re_search(UNSEEN).sum(),
        }
    elif kind.is_floating():
        given = column.isnan().ifelse(ibis.null(kind), column)
        most = MOST_EXACT[4 if kind.is_float32() else 8]
        small = (given.abs() <= most).ifelse(given, ibis.null(kind))
        whole = (small == small.floor()).fill_null(False) & given.notnull()
    elif kind.is_decimal():
        given = column
        whole = (given == given.floor()) & given.between(-(2**63), 2**63 - 1)
        more = {"least": given.min()}
    else:
        raise UserError(f"{where} is {kind_name(kind)}; store ids as text or as integers")
    example = given.cast("string").max(where=~whole)
    return {**more, "whole": whole.sum(), "given": given.count(), "example": example}


def _id_form(kind: dt.DataType, found: Mapping[str, Any], unsigned: dt.DataType, where: str) -> str | None:
    """What a column of ids is read as; None where it stays as it is.

    Parameters
    ----------
    kind : ibis type
    found : mapping
        What :func:`_id_counts` asked for.
    unsigned : ibis type
        As which the engine reads unsigned integers of 64 bits.
    where : str
        The column, for messages.

    Raises
    ------
    UserError
        If it holds numbers that are no whole ones, or that a spreadsheet rounded.
    """
    if kind.is_uuid():
        return "string"
    if not found:
        return None
    least, given = found.get("least"), found["given"]
    if (found.get("rounded") or 0) > MOST_ROUNDED * given:
        raise UserError(
            f"{where} has ids such as 8.60E+12, which a spreadsheet made of long numbers: their last digits are lost; "
            "export them again, as text"
        )
    if kind == unsigned and (least is None or least >= 0):
        return None
    all_whole = given and found["whole"] == given
    if kind.is_string():
        return WHOLE_TEXT if all_whole else None
    if all_whole or not given:
        return "int64"
    if kind.is_decimal() and kind.scale == 0:
        return "string"
    raise UserError(
        f"{where} is {kind} and has values such as {found['example']}, which are no whole numbers that it holds "
        "exactly; store ids as text or as integers"
    )


def read_id(name: str, value: ir.Value, understood: Understood) -> ir.Value:
    """The values of a column of ids as text or as integers, as they are compared."""
    form = understood.ids.get(name)
    if form == WHOLE_TEXT:
        value = value.strip().re_replace(r"[.]0+$", "")
    elif form:
        value = value.isnan().ifelse(ibis.null(value.type()), value) if value.type().is_floating() else value
        value = value.try_cast(form)
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
