"""Times of a log, read as ibis expressions that run on any engine, in the forms that people have them in.

They become int64: seconds since 1970 (UTC unless they say otherwise), or milliseconds where they are finer.
Which form a column has, :mod:`data_tools.log.time_forms` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, get_args

import ibis
import ibis.expr.types as ir

from data_tools.log.numbers import digits, number, whole

# Without it, engines differ: one takes "12:30" for a time of today.
MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-2][0-9]:[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?"
    r"( ?([Zz]|UTC|[+-][0-2][0-9](:?[0-5][0-9])?))?)?$"
)
_ZONE = (
    r"(?:(Z|(?:UTC|GMT)?[+-][0-9]{2}:?[0-9]{2}|(?:UTC|GMT)?[+-][0-9]{2}|UTC|GMT|[A-Z][A-Za-z_]+/[A-Za-z_/+-]+)"
    r"(?: [(][A-Za-z ]+[)])?)"  # JavaScript adds its name
)
_CLOCK = (
    r"(?:[T,: ]+([0-9]{1,2})[:.]([0-9]{2})(?:[:.]([0-9]{2})(?:[.,]([0-9]+))?)?(?: ?([AaPp])[.]?[Mm][.]?)?(?: ?[(\[]?"
    rf"{_ZONE}[)\]]?)?)?$"
)
_DAY_NAME = r"^\[?(?:[A-Za-z]{3,9},? )?"


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
        The first of the groups hour, minute, second, fraction of it, half of the day (a or p) and zone.
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
    "YYYYMMDDTHHMMSS": Written(
        rf"^([0-9]{{4}})([0-9]{{2}})([0-9]{{2}})T([0-9]{{2}})([0-9]{{2}})([0-9]{{2}})?(?:[.,]([0-9]+))?(){_ZONE}?$",
        1,
        2,
        3,
    ),
    "weekday month day time year": Written(
        rf"^[A-Za-z]{{3}} ([A-Za-z]{{3}}) +([0-9]{{1,2}}) ([0-9]{{2}}):([0-9]{{2}}):([0-9]{{2}})()( ){_ZONE}?"
        r" ?([0-9]{4})$",
        9,
        1,
        2,
        3,
    ),
}
CLOCK = ("hour", "minute", "second", "fraction", "half", "zone")  # the groups from ``Written.clock`` on
DAY_FIRST, MONTH_FIRST = "day/month/year", "month/day/year"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
COUNTS = "counts"  # seconds since some start of the log's own, or any other count
SPLIT = ("seconds", COUNTS)  # numbers that may have fractions of a second
SMALL = 10**8  # as seconds, dates before 1973
FAR = 4_102_444_800  # 2100-01-01 in seconds
# From when on numbers count as nanoseconds: earlier ones are ticks of .NET (100 ns since the year 1) or of Windows.
SINCE = {"nanoseconds": 946_684_800}
# What programs count since other years: how many make a second, and how many seconds before 1970 they begin.
FOREIGN = {
    "ticks of .NET": (10**7, 62_135_596_800),
    "FILETIME of Windows": (10**7, 11_644_473_600),
    "times of WebKit": (10**6, 11_644_473_600),
}
DateDigits = Literal[
    "YYYYMMDD",
    "YYMMDDHH",
    "YYYYMMDDHH",
    "YYYYMMDDHHMM",
    "YYMMDDHHMMSS",
    "YYYYMMDDHHMMSS",
    "YYYYMMDDHHMMSSmmm",
]
DIGITS = get_args(DateDigits)
EXCEL = "excel"
EXCEL_EPOCH = -2_209_161_600  # 1899-12-30, day 0 of Excel's serial days, in seconds
EXCEL_DAYS = (36_526, 73_050)  # 2000 to 2099
ORDER = "order"


@dataclass(frozen=True)
class TimeForm:
    """How the times of a column are read.

    Attributes
    ----------
    numbers : str
        What its numbers are: a key of ``UNITS``, "counts", "excel", one of ``DIGITS``, or "order".
    fine : bool
        Whether some times have fractions of a second, of which milliseconds are kept.
    strict : bool
        Whether numbers outside the range of their unit are of another unit.
    written : tuple of str
        The forms of its text beside ISO 8601: keys of ``WRITTEN``.
    zones : dict of str to list of tuple
        Name of a zone -> (local time until which it holds, seconds ahead of UTC), in the order of time.
    notes : tuple of str
        What was inferred, to be reported.
    """

    numbers: str = "seconds"
    fine: bool = False
    strict: bool = True
    written: tuple[str, ...] = ()
    zones: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of what is read: "seconds", "milliseconds" or "order"."""
        if self.numbers == ORDER:
            return ORDER
        return "milliseconds" if self.fine or self.fine_numbers else "seconds"

    @property
    def fine_numbers(self) -> bool:
        """Whether the numbers alone are finer than seconds."""
        return self.numbers in (*UNITS,)[1:] or self.numbers.endswith("mmm")


def _with_moment(table: ir.Table, source: str, target: str, scale: int = 1) -> ir.Table:
    """Add ``target``, seconds since 1970 of the ISO text in ``source`` (milliseconds, of a ``scale`` of 1000), null for
    other text; worked out by hand because engines read different forms. In steps, because an expression is worked out,
    and written, as often as it is used."""
    text = table[source].strip()
    table = table.mutate(__iso__=text.re_search(MOMENT).ifelse(text, ibis.null("string")))
    iso, zone = table["__iso__"], "[+-]([0-9]{2}):?([0-9]{2})?$"
    table = table.mutate(__day__=iso.substr(0, 10).try_cast("date"), __rest__=iso.substr(16, 64))
    table = table.mutate(__hours__=digits(table["__iso__"].substr(11, 2)), __minutes__=digits(iso.substr(14, 2)))
    rest = table["__rest__"]
    table = table.mutate(
        __seconds__=(rest.substr(0, 1) == ":").ifelse(digits(rest.substr(1, 2)), 0),
        __ahead__=digits(rest.re_extract(zone, 1)) * 3600 + digits(rest.re_extract(zone, 2)) * 60,
        __sign__=rest.contains("-").ifelse(-1, 1),
    )
    day = table["__day__"].cast("timestamp").epoch_seconds().cast("int64")
    clock = table["__hours__"] * 3600 + table["__minutes__"] * 60 + table["__seconds__"]
    utc = day + clock - table["__ahead__"] * table["__sign__"]
    if scale > 1:
        utc = utc * scale + digits(rest.re_extract("^:[0-9]{2}[.,]([0-9]{1,3})", 1).rpad(3, "0"))
    table = table.mutate(**{target: (table["__hours__"] < 24).ifelse(utc, ibis.null("int64"))})
    return table.drop(
        "__iso__", "__day__", "__rest__", "__hours__", "__minutes__", "__seconds__", "__ahead__", "__sign__"
    )


def with_local_time(table: ir.Table, form: Written) -> ir.Table:
    """Add ``__local__``, the date and clock of ``__text__`` in a form as ISO text without a zone, and ``__zone__``.

    In steps, because an expression that is used several times would be worked out, and written, as often.
    """
    text = table["__text__"]
    places = {"year": form.year, "month": form.month, "day": form.day}
    places |= {name: form.clock + n for n, name in enumerate(CLOCK)}
    parts = {f"__{name}__": text.re_extract(form.pattern, group) for name, group in places.items()}
    table = table.mutate(**parts)
    month, half, hour = (table[f"__{name}__"].lower() for name in ("month", "half", "hour"))
    fraction = table["__fraction__"]
    table = table.mutate(
        __month__=ibis.cases(*((month == name, f"{n}") for n, name in enumerate(MONTHS, 1)), else_=month),
        __hour__=half.isin(["a", "p"])
        .ifelse(digits(hour) % 12 + (half == "p").ifelse(12, 0), digits(hour))
        .cast("string"),
        __fraction__=(fraction == "").ifelse("", ibis.literal(".") + fraction),
    )
    date, clock = (
        [table[f"__{name}__"].lpad(width, "0") for name, width in names]
        for names in ((("year", 4), ("month", 2), ("day", 2)), (("hour", 2), ("minute", 2), ("second", 2)))
    )
    local = (
        date[0]
        + "-"
        + date[1]
        + "-"
        + date[2]
        + " "
        + clock[0]
        + ":"
        + clock[1]
        + ":"
        + clock[2]
        + table["__fraction__"]
    )
    return table.mutate(__local__=local).drop(*(name for name in parts if name != "__zone__"))


def _with_written(
    table: ir.Table, form: Written, zones: Mapping[str, Sequence[tuple[str, int]]], scale: int
) -> ir.Table:
    """``__date__``, where it is null, from ``__text__`` in a form; still null for other text and unknown zones."""
    table = with_local_time(table, form)
    local, zone = table["__local__"], table["__zone__"]
    named = zone.contains("/")
    steps = [(zone == name) & (local < until) for name, own in zones.items() for until, _ in own]
    ahead = [seconds for own in zones.values() for _, seconds in own]
    table = table.mutate(
        __plain__=local + named.ifelse("", zone.replace("GMT", "UTC").replace("UTC+", "+").replace("UTC-", "-")),
        __ahead_of__=ibis.cases((~named, 0), *zip(steps, ahead, strict=True)).cast("int64"),
    )
    table = _with_moment(table, "__plain__", "__moment__", scale)
    table = table.mutate(__date__=table["__date__"].coalesce(table["__moment__"] - table["__ahead_of__"] * scale))
    return table.drop("__local__", "__zone__", "__plain__", "__ahead_of__", "__moment__")


def _with_digits(table: ir.Table, form: str) -> ir.Table:
    """``__numbers__``: seconds since 1970 (milliseconds, of a form that has them) of dates written as digits alone."""
    text = whole(table.timestamp).cast("string")
    table = table.mutate(__digits__=(text.length() == len(form)).ifelse(text, ibis.null("string")))
    text, year = table["__digits__"], 4 if form.startswith("YYYY") else 2
    pairs = [text.substr(at, 2) for at in range(year, len(form.removesuffix("mmm")), 2)] + [ibis.literal("00")] * 3
    date = ibis.literal("20"[: 4 - year]) + text.substr(0, year) + "-" + pairs[0] + "-" + pairs[1]
    table = table.mutate(__plain__=date + " " + pairs[2] + ":" + pairs[3] + ":" + pairs[4])
    table = _with_moment(table, "__plain__", "__numbers__")
    if form.endswith("mmm"):
        table = table.mutate(__numbers__=table["__numbers__"] * 1000 + digits(table["__digits__"].substr(14, 3)))
    return table.drop("__digits__", "__plain__")


def _numbers(value: ir.Value, form: TimeForm) -> ir.Value:
    """Numbers as the form's unit has them; null for those of another unit."""
    if form.numbers == EXCEL:
        days = number(value)
        days = days.between(*EXCEL_DAYS).ifelse(days, ibis.null("float64"))
        return (days * 86400).round().cast("int64") + EXCEL_EPOCH
    found, scale = whole(value), UNITS.get(form.numbers, 1)
    if form.strict:
        start = SINCE.get(form.numbers, SMALL)
        small = found.between(1 - start * scale, start * scale - 1)
        inside = small if form.numbers == COUNTS else found.between(-FAR * scale, FAR * scale) & ~small
        found = inside.ifelse(found, ibis.null("int64"))
    return found if scale <= 1000 else found // (scale // 1000)


def _beyond(value: ir.Value) -> ir.Value:
    """Milliseconds of numbers beyond whole seconds."""
    return ((number(value) - whole(value)) * 1000).round().cast("int64").coalesce(0)


def _near(time: ir.Value, scale: int = 1) -> ir.Value:
    """Time since 1970, null for what stands for no date, such as 9999-12-31 and 0001-01-01: as of numbers."""
    return time.between(-FAR * scale, FAR * scale).ifelse(time, ibis.null("int64"))


def moment_of(value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Seconds since 1970 of a column of times, null for what stands for no date, and the milliseconds beyond these."""
    time = value.cast("timestamp")
    return _near(time.truncate("s").epoch_seconds().cast("int64")), time.millisecond().cast("int64")


def timed(table: ir.Table, form: TimeForm) -> ir.Table:
    """Read the column ``timestamp`` (int64, null where it cannot be read), and add ``__other__``: whether it is a
    number of another unit than the column's."""
    value, scale = table.timestamp, 1000 if form.unit == "milliseconds" else 1
    if value.type().is_timestamp() or value.type().is_date():
        seconds, milliseconds = moment_of(value)
        time = seconds * 1000 + milliseconds if form.fine else seconds
        return table.mutate(timestamp=time, __other__=ibis.literal(False))
    table = table.mutate(__whole__=whole(value))
    if form.numbers in DIGITS:
        table = _with_digits(table, form.numbers)
    else:
        table = table.mutate(__numbers__=_numbers(table.timestamp, form))
    if form.fine and not form.fine_numbers:
        beyond = _beyond(value) if form.numbers in SPLIT else 0
        table = table.mutate(__numbers__=table["__numbers__"] * scale + beyond)
    table = table.mutate(__other__=table["__whole__"].notnull() & table["__numbers__"].isnull())
    if not value.type().is_string():
        return table.mutate(timestamp="__numbers__").drop("__numbers__", "__whole__")
    table = table.mutate(__text__=table.timestamp.strip())
    table = _with_moment(table, "__text__", "__date__", scale)
    for name in form.written:
        table = _with_written(table, WRITTEN[name], form.zones, scale)
    table = table.mutate(timestamp=table["__numbers__"].coalesce(_near(table["__date__"], scale)))
    return table.drop("__numbers__", "__whole__", "__text__", "__date__")


def date_text(time: int, unit: str) -> str | None:
    """A time as a date, in UTC; None where times are no dates."""
    seconds = time / 1000 if unit == "milliseconds" else time
    if unit == ORDER or not abs(seconds) < 2 * FAR:
        return None
    return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")
