"""Which form the times of a column have.

A form is taken only where the column itself leaves no other reading. What could be two things is refused, with the
setting that decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import ibis
import ibis.expr.types as ir

from data_tools.common.errors import UserError
from data_tools.log.engines import Engine
from data_tools.log.numbers import digits, kind_name, number, whole
from data_tools.log.times import (
    COUNTS,
    DAY_FIRST,
    DIGITS,
    EXCEL,
    EXCEL_DAYS,
    FAR,
    FOREIGN,
    MOMENT,
    MONTH_FIRST,
    ORDER,
    SINCE,
    SMALL,
    SPLIT,
    UNITS,
    WRITTEN,
    TimeForm,
    moment_of,
    with_local_time,
)

LARGEST_DIGITS = 10**17  # that dates as digits stay below; engines divide in float64
ZONED = ":[0-9][0-9].*([Zz]|UTC|[+-][0-9]{2}(:?[0-9]{2})?)$"  # of times in ISO 8601, those with a zone
# Of times in ISO 8601, those with milliseconds; 9999-12-31 23:59:59.999 stands for none.
MILLIS = "0{0,2}[1-9]"  # how a fraction begins that has some
FINE = "^(19|20).*:[0-9]{2}[.,]" + MILLIS
HALF = 0.0005  # seconds, from which on a fraction is rounded to milliseconds
SURE = 0.9  # of a column's numbers have the form that is taken


def time_form(run: Engine, column: ir.Value, asked: str, day_first: bool | None, where: str) -> TimeForm:
    """The form that a column of times has.

    Parameters
    ----------
    run : Engine
        What looks through the column.
    column : ibis column
    asked : str
        What the user says that numbers are; "auto" to find out.
    day_first : bool, optional
        What the user says of dates such as 05/04/2023.
    where : str
        The column, for messages.

    Raises
    ------
    UserError
        If the column could be read in two ways, or not at all.
    """
    kind = column.type()
    if kind.is_timestamp() or kind.is_date():
        form = TimeForm(ORDER if asked == ORDER else "seconds")
        return _finer(form, kind.is_timestamp() and _has_fractions(run, column))
    if not (kind.is_string() or kind.is_numeric()):
        raise UserError(f"{where} is {kind_name(kind)}; must be numbers, dates or text")
    found = run.rows(_counted(column)).row(0, named=True)
    counts = {name: found[name] if name in ("least", "most") else found[name] or 0 for name in found}
    form = TimeForm(asked, strict=False)
    if asked == "auto":
        form = _form_of_numbers(counts, where)
    if 0 < counts["zoned"] < counts["dated"]:
        plain = counts["dated"] - counts["zoned"]
        form = replace(form, notes=(*form.notes, f"{plain:,} of the times name no zone, as others do: taken for UTC"))
    if counts["others"] and kind.is_string():
        form = _with_written(run, column, form, day_first, where)
    return _finer(form, counts["fine"] > 0 or (form.numbers in SPLIT and counts["split"] > 0))


def _finer(form: TimeForm, fine: bool) -> TimeForm:
    """A form that keeps milliseconds where times have them; said where that is another unit."""
    if not fine or form.fine or form.unit == ORDER:
        return form
    said = () if form.fine_numbers else ("times have fractions of a second and are kept in milliseconds",)
    return replace(form, fine=True, notes=(*form.notes, *said))


def _has_fractions(run: Engine, column: ir.Value) -> bool:
    """Whether a column of times has milliseconds beside those that stand for no date."""
    seconds, milliseconds = moment_of(column)
    return bool(run.rows(column.as_table().agg(n=(seconds.notnull() & (milliseconds != 0)).sum()))["n"][0])


def _counted(column: ir.Value) -> ir.Table:
    """What is counted to find the form of a column."""
    table, text = column.name("given").as_table(), column.type().is_string()
    if text:
        table = table.mutate(given=table.given.strip())
        table = table.mutate(given=(table.given == "").ifelse(ibis.null("string"), table.given))
    dated = table.given.re_search(MOMENT).fill_null(False) if text else ibis.literal(False)
    table = table.mutate(value=whole(table.given), number=number(table.given), dated=dated)
    value, size = table.value, table.value.abs()
    counts = {
        "numbers": value.count(),
        "dated": table.dated.sum(),
        "zoned": (table.dated & table.given.re_search(ZONED)).sum() if text else ibis.literal(0),
        "fine": (table.dated & table.given.re_search(FINE)).sum() if text else ibis.literal(0),
        "others": (table.given.notnull() & value.isnull() & ~table.dated).sum(),
        "least": value.min(),
        "most": value.max(),
        "fractions": (table.number != value).sum(),
        "split": ((size < FAR) & (table.number - value >= HALF)).sum(),
        COUNTS: (size < SMALL).sum(),
        EXCEL: value.between(*EXCEL_DAYS).sum(),
    }
    for unit, scale in UNITS.items():
        counts[unit] = ((size >= SINCE.get(unit, SMALL) * scale) & (size < FAR * scale)).sum()
    for form in DIGITS:
        counts[form] = _valid_digits(value, form).sum()
    return table.agg(**counts)


def _valid_digits(value: ir.Value, form: str) -> ir.Value:
    """Whether a number is a date as digits: by its parts, each in its range."""
    year = 4 if form.startswith("YYYY") else 2
    pairs, rest = (len(form.removesuffix("mmm")) - year) // 2, 1000 if form.endswith("mmm") else 1
    value = value.between(0, LARGEST_DIGITS).ifelse(value, ibis.null("int64"))
    whole_date = value // rest if rest > 1 else value
    years = whole_date // 100**pairs
    # A number has no zeros in front: a year below 10 would leave a digit too few.
    valid = years.between(1970, 2099) if year == 4 else years.between(10, 99)
    for place, most in zip(range(pairs), (12, 31, 23, 59, 59), strict=False):
        part = whole_date // 100 ** (pairs - 1 - place) % 100
        valid &= part.between(1 if place < 2 else 0, most)
    return valid


def _form_of_numbers(counts: Mapping[str, int], where: str) -> TimeForm:
    """What the numbers of a column are, by what was counted."""
    total, least, most = counts["numbers"], counts["least"], counts["most"]
    if not total:
        return TimeForm()
    sure = SURE * total
    choice = "say what they are with --time-unit"
    if fitting := [form for form in DIGITS if counts[form] >= sure]:
        if len(fitting) > 1:
            raise UserError(f"{where}: numbers from {least} to {most} can be {' or '.join(fitting)}; {choice}")
        return TimeForm(fitting[0], notes=(f"times are read as {fitting[0]}: {least} to {most}",))
    if counts[EXCEL] >= sure:
        if not counts["fractions"]:
            raise UserError(
                f"{where}: numbers from {least} to {most} can be days of Excel ({_excel(least)} to {_excel(most)}) or "
                f"seconds from some start; {choice}: excel, seconds or order"
            )
        return TimeForm(EXCEL, notes=(f"times are read as Excel's days: {least} is {_excel(least)}",))
    found = {unit: counts[unit] for unit in (*UNITS, *([] if counts["dated"] > total else [COUNTS]))}
    unit = max(found, key=lambda name: found[name])
    if found[unit] < total / 2:
        raise UserError(
            f"{where}: numbers from {least} to {most} are no times since 1970 in seconds, milliseconds, microseconds "
            f"or nanoseconds, and no dates as digits such as 20231225120000; {_foreign(least, most) or choice}"
        )
    notes = {
        COUNTS: f"times from {least} to {most} are no dates but counts, taken for seconds from some start; "
        "if they are durations or the like, name another column, or say --time-unit order",
        "microseconds": "times are read as microseconds and kept in milliseconds",
        "nanoseconds": "times are read as nanoseconds and kept in milliseconds",
    }
    return TimeForm(unit, notes=(notes[unit],) if unit in notes else ())


def _foreign(least: int, most: int) -> str:
    """What programs count by such numbers, and how to bring them to seconds; otherwise nothing."""
    for name, (each, before) in FOREIGN.items():
        if SINCE["nanoseconds"] <= least // each - before and most // each - before < FAR:
            return f"they look like {name}: (number - {before * each}) / {each} are seconds since 1970"
    return ""


def _excel(days: int) -> str:
    return str((datetime(1899, 12, 30) + timedelta(days=days)).date())


def _with_written(run: Engine, column: ir.Value, form: TimeForm, day_first: bool | None, where: str) -> TimeForm:
    """A form with those of the text that is neither a number nor ISO 8601."""
    texts = column.strip().name("__text__").as_table()
    text = texts["__text__"]
    texts = texts.filter(text != "", whole(text).isnull(), ~text.re_search(MOMENT))
    text = texts["__text__"]
    counts = {name: text.re_search(one.pattern).sum() for name, one in WRITTEN.items()}
    counts |= {"example": text.min(), "zoned": text.re_search("[A-Za-z]/[A-Za-z]").sum()}
    for name in (DAY_FIRST, MONTH_FIRST):
        against = digits(text.re_extract(WRITTEN[name].pattern, WRITTEN[name].month)) > 12
        counts |= {f"against {name}": against.sum(), f"example against {name}": text.min(where=against)}
    found = run.rows(texts.agg(**counts)).row(0, named=True)
    names, why = [name for name in WRITTEN if found[name]], ""
    if DAY_FIRST in names:
        if day_first is None:
            if not (found[f"against {DAY_FIRST}"] or found[f"against {MONTH_FIRST}"]):
                raise UserError(
                    f"{where}: times such as {found['example']!r} can be {DAY_FIRST} or {MONTH_FIRST}; say --day-first "
                    "true or false"
                )
            day_first = found[f"against {MONTH_FIRST}"] >= found[f"against {DAY_FIRST}"]
        other = MONTH_FIRST if day_first else DAY_FIRST
        names.remove(other)
        if found[f"against {other}"]:
            why = f": {found[f'example against {other}']!r} rules out {other}"
    why = why or f", such as {found['example']!r}"
    notes = [f"times are read as {', '.join(names)}{why}"] if names else []
    zones = _zones(run, texts, names) if found["zoned"] else {}
    form = replace(form, written=tuple(names), zones=zones, notes=(*form.notes, *notes))
    return _finer(form, _written_fractions(run, texts, names))


def _written_fractions(run: Engine, texts: ir.Table, names: Sequence[str]) -> bool:
    """Whether times in some forms have milliseconds."""
    fractions = [texts["__text__"].re_extract(WRITTEN[name].pattern, WRITTEN[name].clock + 3) for name in names]
    counts = {name: one.re_search(f"^{MILLIS}").sum() for name, one in zip(names, fractions, strict=True)}
    return bool(names) and any(run.rows(texts.agg(**counts)).row(0))


def _zones(run: Engine, texts: ir.Table, names: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """How far each zone that is named is ahead of UTC, and until when, over the time that the texts span."""
    spans: dict[str, list[str]] = {}
    for name in names:
        table = with_local_time(texts, WRITTEN[name])
        table = table.filter(table["__zone__"].contains("/"))
        ends = table.group_by("__zone__").agg(first=table["__local__"].min(), last=table["__local__"].max())
        for zone, first, last in run.rows(ends.select("__zone__", "first", "last")).iter_rows():
            spans.setdefault(zone, []).extend([first, last])
    known = available_timezones()
    return {zone: _steps(ZoneInfo(zone), min(ends), max(ends)) for zone, ends in spans.items() if zone in known}


def _steps(zone: ZoneInfo, first: str, last: str) -> list[tuple[str, int]]:
    """(local time until which it holds, seconds ahead of UTC) of a zone between two local times, to the hour."""
    try:
        hour, end = (datetime.fromisoformat(text[:10]) for text in (first, last))
    except ValueError:
        return []
    steps, ahead = [], zone.utcoffset(hour)
    while hour < end + timedelta(days=1):
        step = timedelta(days=1) if zone.utcoffset(hour + timedelta(days=1)) == ahead else timedelta(hours=1)
        hour += step
        if zone.utcoffset(hour) != ahead:
            steps.append((str(hour), int(ahead.total_seconds())))
            ahead = zone.utcoffset(hour)
    return [*steps, ("9999", int(ahead.total_seconds()))]
