"""Times of a log, read as ibis expressions that run on any engine, in the forms that people have them in.

They become int64: seconds since 1970 (UTC unless they say otherwise), or milliseconds where the numbers are finer.
Which form a column has, :mod:`data_tools.log.time_forms` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import ibis
import ibis.expr.types as ir

from data_tools.log.numbers import digits, number, whole

# Without it, engines differ: one takes "12:30" for a time of today.
MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-2][0-9]:[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?"
    r"( ?(Z|UTC|[+-][0-2][0-9](:?[0-5][0-9])?))?)?$"
)
_ZONE = r"(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}|[+-][0-9]{2}|[A-Z][A-Za-z_]+/[A-Za-z_/+-]+)"
_CLOCK = (
    r"(?:[T,: ]+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,][0-9]+)?)?(?: ?([AaPp])[.]?[Mm][.]?)?(?: ?[(\[]?"
    rf"{_ZONE}[)\]]?)?)?$"
)
_DAY_NAME = r"^(?:[A-Za-z]{3,9},? )?"


@dataclass(frozen=True)
class Written:
    """A form of dates in text.

    Attributes
    ----------
    pattern : str
        A regular expression.
    year, month, day : int
        The groups that hold these; a month may be a name.
    clock : int
        The first of the groups hour, minute, second, half of the day (a or p) and zone.
    """

    pattern: str
    year: int
    month: int
    day: int
    clock: int = 4


WRITTEN = {
    "year/month/day": Written(rf"^([0-9]{{4}})[-/.]([0-9]{{1,2}})[-/.]([0-9]{{1,2}}){_CLOCK}", 1, 2, 3),
    "day/month/year": Written(rf"^([0-9]{{1,2}})[-/.]([0-9]{{1,2}})[-/.]([0-9]{{4}}){_CLOCK}", 3, 2, 1),
    "month/day/year": Written(rf"^([0-9]{{1,2}})[-/.]([0-9]{{1,2}})[-/.]([0-9]{{4}}){_CLOCK}", 3, 1, 2),
    "day month year": Written(
        rf"{_DAY_NAME}([0-9]{{1,2}})[-/ ]([A-Za-z]{{3}})[a-z]*[-/, ]+([0-9]{{4}}){_CLOCK}", 3, 2, 1
    ),
    "month day, year": Written(rf"{_DAY_NAME}([A-Za-z]{{3}})[a-z]* ([0-9]{{1,2}}),? ([0-9]{{4}}){_CLOCK}", 3, 1, 2),
    "weekday month day time year": Written(
        rf"^[A-Za-z]{{3}} ([A-Za-z]{{3}}) +([0-9]{{1,2}}) ([0-9]{{2}}):([0-9]{{2}}):([0-9]{{2}})( ){_ZONE}?"
        r" ?([0-9]{4})$",
        8,
        1,
        2,
        3,
    ),
}
DAY_FIRST, MONTH_FIRST = "day/month/year", "month/day/year"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
COUNTS = "counts"  # seconds since some start of the log's own, or any other count
SMALL = 10**8  # as seconds, dates before 1973
FAR = 4_102_444_800  # 2100-01-01 in seconds
DIGITS = (
    "YYYYMMDD",
    "YYMMDDHH",
    "YYYYMMDDHH",
    "YYYYMMDDHHMM",
    "YYMMDDHHMMSS",
    "YYYYMMDDHHMMSS",
    "YYYYMMDDHHMMSSmmm",
)
EXCEL = "excel"
EXCEL_EPOCH = -2_209_161_600  # 1899-12-30, day 0 of Excel's serial days, in seconds
EXCEL_DAYS = (36_526, 73_050)  # 2000 to 2099
ORDER = "order"
CHOICES = ("auto", *UNITS, EXCEL, *DIGITS, ORDER)


@dataclass(frozen=True)
class TimeForm:
    """How the times of a column are read.

    Attributes
    ----------
    numbers : str
        What its numbers are: a key of ``UNITS``, "counts", "excel", one of ``DIGITS``, or "order".
    strict : bool
        Whether numbers outside the range of their unit are of another unit.
    written : tuple of str
        The forms of its text beside ISO 8601: keys of ``WRITTEN``.
    zones : dict of str to list of tuple
        Name of a zone -> (local time until which it holds, seconds ahead of UTC), in the order of time.
    notes : tuple of str
        What was understood, to be said.
    """

    numbers: str = "seconds"
    strict: bool = True
    written: tuple[str, ...] = ()
    zones: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of what is read: "seconds", "milliseconds" or "order"."""
        if self.numbers == ORDER:
            return ORDER
        return "milliseconds" if self.numbers in (*UNITS,)[1:] or self.numbers.endswith("mmm") else "seconds"


def _moment(value: ir.Value) -> ir.Value:
    """Seconds since 1970 of ISO text, worked out by hand because engines read different forms; null for other text."""
    text = value.strip()
    text = text.re_search(MOMENT).ifelse(text, ibis.null("string"))
    day = text.substr(0, 10).try_cast("date").cast("timestamp").epoch_seconds().cast("int64")
    hours, rest = digits(text.substr(11, 2)), text.substr(16, 64)
    seconds = (rest.substr(0, 1) == ":").ifelse(digits(rest.substr(1, 2)), 0)
    zone = "[+-]([0-9]{2}):?([0-9]{2})?$"
    ahead = digits(rest.re_extract(zone, 1)) * 3600 + digits(rest.re_extract(zone, 2)) * 60
    utc = day + hours * 3600 + digits(text.substr(14, 2)) * 60 + seconds - rest.contains("-").ifelse(-ahead, ahead)
    return (hours < 24).ifelse(utc, ibis.null("int64"))


def local_time(text: ir.Value, form: Written) -> tuple[ir.Value, ir.Value]:
    """Date and clock of text in a form, as ISO text without a zone, and the zone."""

    def part(group: int, width: int = 2) -> ir.Value:
        return text.re_extract(form.pattern, group).lpad(width, "0")

    month, half = text.re_extract(form.pattern, form.month).lower(), text.re_extract(form.pattern, form.clock + 3)
    named = ibis.cases(*((month == name, f"{place:02}") for place, name in enumerate(MONTHS, 1)), else_=month)
    hour, late = digits(part(form.clock)), half.lower().isin(["p"]).ifelse(12, 0)
    hour = half.lower().isin(["a", "p"]).ifelse(hour % 12 + late, hour).cast("string")
    date = part(form.year, 4) + "-" + named.lpad(2, "0") + "-" + part(form.day)
    clock = hour.lpad(2, "0") + ":" + part(form.clock + 1) + ":" + part(form.clock + 2)
    return date + " " + clock, text.re_extract(form.pattern, form.clock + 4)


def _written(text: ir.Value, form: Written, zones: Mapping[str, Sequence[tuple[str, int]]]) -> ir.Value:
    """Seconds since 1970 of text in a form; null for other text, and where the zone is unknown."""
    local, zone = local_time(text, form)
    plain = _moment(local + zone.contains("/").ifelse("", zone.replace("GMT", "UTC")))
    if not zones:
        return zone.contains("/").ifelse(ibis.null("int64"), plain)
    steps = ((zone == name) & (local < until) for name, own in zones.items() for until, _ in own)
    ahead = [seconds for own in zones.values() for _, seconds in own]
    return plain - ibis.cases(*zip(steps, ahead, strict=True), (~zone.contains("/"), 0)).cast("int64")


def _from_digits(value: ir.Value, form: str) -> ir.Value:
    """Seconds since 1970 (milliseconds, of a form that has them) of dates written as digits alone."""
    text = whole(value).cast("string")
    text = (text.length() == len(form)).ifelse(text, ibis.null("string"))
    year = 4 if form.startswith("YYYY") else 2
    pairs = [text.substr(at, 2) for at in range(year, len(form.removesuffix("mmm")), 2)] + [ibis.literal("00")] * 3
    date = ibis.literal("20"[: 4 - year]) + text.substr(0, year) + "-" + pairs[0] + "-" + pairs[1]
    seconds = _moment(date + " " + pairs[2] + ":" + pairs[3] + ":" + pairs[4])
    return seconds * 1000 + digits(text.substr(14, 3)) if form.endswith("mmm") else seconds


def _numbers(value: ir.Value, form: TimeForm) -> ir.Value:
    """Numbers as the form's unit has them; null for those of another unit."""
    if form.numbers in DIGITS:
        return _from_digits(value, form.numbers)
    if form.numbers == EXCEL:
        days = number(value)
        return (days.between(*EXCEL_DAYS).ifelse(days, ibis.null("float64")) * 86400).round().cast(
            "int64"
        ) + EXCEL_EPOCH
    found, scale = whole(value), UNITS.get(form.numbers, 1)
    if form.strict:
        small = found.between(1 - SMALL * scale, SMALL * scale - 1)
        inside = small if form.numbers == COUNTS else found.between(-FAR * scale, FAR * scale) & ~small
        found = inside.ifelse(found, ibis.null("int64"))
    return found if scale <= 1000 else found // (scale // 1000)


def read_time(value: ir.Value, form: TimeForm) -> tuple[ir.Value, ir.Value]:
    """Times as int64, null where they cannot be read; and whether a number is of another unit than the column's."""
    scale = 1000 if form.unit == "milliseconds" else 1
    if value.type().is_timestamp() or value.type().is_date():
        return value.cast("timestamp").truncate("s").epoch_seconds().cast("int64") * scale, ibis.literal(False)
    numbers = _numbers(value, form)
    other = whole(value).notnull() & numbers.isnull()
    if not value.type().is_string():
        return numbers, other
    text = value.strip()
    dates = [_moment(text), *(_written(text, WRITTEN[name], form.zones) for name in form.written)]
    return ibis.coalesce(numbers, *(date * scale for date in dates)), other


def date_text(time: int, unit: str) -> str | None:
    """A time as a date, in UTC; None where times are no dates."""
    seconds = time / 1000 if unit == "milliseconds" else time
    if unit == ORDER or not abs(seconds) < 2 * FAR:
        return None
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")
