"""What the columns of a log mean: times, labels and ids in the forms that people have them in."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from data_tools.common.errors import UserError
from data_tools.log.engines import engine
from data_tools.log.time_forms import time_form
from data_tools.log.times import date_text, timed
from data_tools.log.understood import Understood, catalogue_keys, read_id, understand
from data_tools.log.values import judge

NUMBERS = itertools.count()  # of tables
MOMENTS = [datetime(2023, 12, 25, 15, 4, 9), datetime(2024, 1, 2, 0, 30, 0), datetime(2023, 11, 14, 22, 13, 20)]


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    with engine("duckdb", tmp_path_factory.mktemp("duck"), "1GB") as run:
        yield run


def times(run, values, asked="auto", day_first=None, kind=None):
    """Times as they are read, and how many are of another unit, and the form."""
    table = run.frame(f"times_{next(NUMBERS)}", pl.DataFrame({"t": pl.Series(values, dtype=kind)}).with_row_index())
    form = time_form(run, table.t, asked, day_first, "the log, column 't'")
    found = run.rows(timed(table.rename(timestamp="t"), form).order_by("index"))
    return found["timestamp"].to_list(), found["__other__"].sum(), form


def seconds(moment):
    return int(moment.replace(tzinfo=UTC).timestamp())


CLOCKED = {
    "%Y%m%d%H%M%S": "YYYYMMDDHHMMSS",
    "%y%m%d%H%M%S": "YYMMDDHHMMSS",
    "%d/%m/%Y %H:%M:%S": "day/month/year",
    "%m/%d/%Y %I:%M:%S %p": "month/day/year",
    "%d.%m.%Y %H:%M:%S": "day/month/year",
    "%m-%d-%Y %H:%M:%S": "month/day/year",
    "%Y/%m/%d %H:%M:%S": "year/month/day",
    "%Y-%m-%d %H:%M:%S GMT": "year/month/day",
    "%Y-%m-%d, %H:%M:%S UTC": "year/month/day",
    "%Y-%m-%d %H:%M:%S GMT+0000": "year/month/day",
    "%a %b %d %Y %H:%M:%S GMT+0000 (Greenwich Mean Time)": "month day, year",
    "[%d/%b/%Y:%H:%M:%S +0000]": "day month year",
    "%d.%m.%Y %H.%M.%S": "day/month/year",
    "%d-%b-%Y %H:%M:%S": "day month year",
    "%a, %d %b %Y %H:%M:%S GMT": "day month year",
    "%d/%b/%Y:%H:%M:%S +0000": "day month year",
    "%d %B %Y %H:%M:%S": "day month year",
    "%b %d, %Y %I:%M:%S%p": "month day, year",
    "%a %b %d %H:%M:%S %Y": "weekday month day time year",
    "%a %b %d %H:%M:%S +0000 %Y": "weekday month day time year",
}


@pytest.mark.parametrize("pattern", CLOCKED)
def test_times_as_text_are_what_they_were_written_from(duck, pattern):
    read, other, form = times(duck, [moment.strftime(pattern) for moment in MOMENTS])
    assert read == list(map(seconds, MOMENTS)) and not other
    assert CLOCKED[pattern] in form.notes[0], "what was understood is said"


SHORT = {"%Y%m%d": 86400, "%Y%m%d%H": 3600, "%y%m%d%H": 3600, "%Y%m%d%H%M": 60, "%d/%m/%Y": 86400, "%Y/%m/%d": 86400}


@pytest.mark.parametrize("pattern", SHORT)
@pytest.mark.parametrize("kind", [pl.String, pl.Int64, pl.Float64])
def test_dates_without_a_full_clock(duck, pattern, kind):
    written = [moment.strftime(pattern) for moment in MOMENTS]
    if "/" in pattern and kind != pl.String:
        pytest.skip("text alone has signs")
    read, _, form = times(duck, written if kind == pl.String else list(map(int, written)), kind=kind)
    assert read == [seconds(moment) // SHORT[pattern] * SHORT[pattern] for moment in MOMENTS]
    assert form.notes


def test_hours_of_avazu(duck):
    read, _, form = times(duck, [14102100, 14103023, 14102512])
    assert [date_text(time, form.unit) for time in read] == [
        "2014-10-21 00:00:00",
        "2014-10-30 23:00:00",
        "2014-10-25 12:00:00",
    ]
    assert "YYMMDDHH" in form.notes[0]


@pytest.mark.parametrize(
    ("unit", "scale"), [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
@pytest.mark.parametrize("kind", [pl.String, pl.Int64])
def test_epochs_by_their_size(duck, unit, scale, kind):
    values = [seconds(moment) * scale + scale // 3 for moment in MOMENTS]
    read, other, form = times(duck, [*map(str, values)] if kind == pl.String else values, kind=kind)
    kept = 1 if unit == "seconds" else 1000
    assert read == [value * kept // scale for value in values] and not other
    assert form.unit == ("seconds" if unit == "seconds" else "milliseconds")
    assert bool(form.notes) == (unit in ("microseconds", "nanoseconds"))
    mixed = [*values, 5, 10**16 * 7]
    assert times(duck, mixed)[1] == 2, "numbers of another size are of another unit"


def test_days_of_excel(duck):
    start = datetime(1899, 12, 30)
    values = [(moment - start) / timedelta(days=1) for moment in MOMENTS]
    for column in (values, [f"{value:.8f}" for value in values]):
        read, _, form = times(duck, column)
        assert read == list(map(seconds, MOMENTS)) and "Excel" in form.notes[0]
    days = [int(value) for value in values]
    with pytest.raises(UserError, match=r"45244 to 45293.*days of Excel \(2023-11-14 to 2024-01-02\) or seconds"):
        times(duck, days)
    assert times(duck, days, "excel")[0] == [seconds(moment) // 86400 * 86400 for moment in MOMENTS]
    assert times(duck, days, "seconds")[0] == days


def test_counts_are_said_to_be_no_dates(duck):
    read, other, form = times(duck, [3, 400, 12, 7])
    assert read == [3, 400, 12, 7] and not other and "from 3 to 400 are no dates" in form.notes[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([99_999_999_999_999, 99_999_999_999_998], "no times since 1970"),
        (["05/04/2023", "06/07/2023 3:04 PM"], "can be day/month/year or month/day/year; say --day-first"),
        ([20121212, 20121111], "can be YYYYMMDD or YYMMDDHH"),
        (
            [(1_600_000_000 + 62_135_596_800) * 10**7],
            "look like ticks of .NET: .number - 621355968000000000. / 10000000 are",
        ),
        ([(1_600_000_000 + 11_644_473_600) * 10**7], "look like FILETIME of Windows"),
        ([(1_600_000_000 + 11_644_473_600) * 10**6], "look like times of WebKit"),
    ],
)
def test_what_could_be_two_things_or_none_is_refused(duck, values, words):
    with pytest.raises(UserError, match=words):
        times(duck, values)


def test_the_order_of_day_and_month_can_be_said(duck):
    assert times(duck, ["05/04/2023"], day_first=True)[0] == [seconds(datetime(2023, 4, 5))]
    assert times(duck, ["05/04/2023"], day_first=False)[0] == [seconds(datetime(2023, 5, 4))]
    read, _, form = times(duck, ["25/12/2023", "01/02/2023", "12/31/2023", "26/12/2023"])
    assert read == [
        *map(seconds, (datetime(2023, 12, 25), datetime(2023, 2, 1))),
        None,
        seconds(datetime(2023, 12, 26)),
    ]
    assert "'25/12/2023' rules out month/day/year" in form.notes[0]


def test_hours_ahead_behind_the_name_of_a_zone(duck):
    local = ["2023-12-25 10:00:00 GMT+0200", "Mon Dec 25 2023 10:00:00 GMT-0500 (Eastern Standard Time)"]
    assert times(duck, local)[0] == [seconds(datetime(2023, 12, 25, hour)) for hour in (8, 15)]


@pytest.mark.parametrize("kind", [None, pl.Datetime("us")])
def test_dates_that_stand_for_none_are_no_times(duck, kind):
    given = [datetime(9999, 12, 31), datetime(1, 1, 1), datetime(2100, 1, 2), datetime(2023, 12, 25)]
    read = times(duck, given if kind else [f"{one:%Y-%m-%d}".rjust(10, "0") for one in given], kind=kind)[0]
    assert read == [None, None, None, seconds(given[-1])]


def test_names_of_zones(duck):
    """Through both changes of the clock of two zones; an unknown zone cannot be read."""
    zones = ["Europe/Berlin", "America/New_York"]
    start = datetime(2023, 1, 1)
    local = [(start + timedelta(hours=37 * n), zones[n % 2]) for n in range(240)]
    written = [f"{moment:%Y-%m-%d %H:%M:%S} {zone}" for moment, zone in local]
    read = times(duck, [*written, "2023-05-05 10:00:00 Mars/Olympus", "2023-05-05 10:00:00 UTC"])[0]
    assert read[:-2] == [int(moment.replace(tzinfo=ZoneInfo(zone)).timestamp()) for moment, zone in local]
    assert read[-2:] == [None, seconds(datetime(2023, 5, 5, 10))]


def test_impossible_dates_cannot_be_read(duck):
    assert times(duck, ["31/02/2023", "25/12/2023 25:00", "25/12/2023"])[0] == [
        None,
        None,
        seconds(datetime(2023, 12, 25)),
    ]


def judged(run, log, columns=None, items=("a", "7"), **asked):
    """Rows as they are judged, in their order, and what was understood."""
    names = {name: name for name in log.columns} if columns is None else columns
    number = next(NUMBERS)
    table = run.frame(f"log_{number}", log.with_row_index("__row__").cast({"__row__": pl.Int64}))
    understood = understand(run, table, names, "the log", **asked)
    catalogue = pl.DataFrame({"item_id": list(items)}).with_row_index("item").cast({"item": pl.Int32})
    keys = catalogue.select("item", key=catalogue_keys(catalogue, understood.match))
    rows = run.rows(judge(table, names, run.frame(f"keys_{number}", keys), understood).order_by("row"))
    return rows, understood


def clicks(run, values, **asked):
    log = pl.DataFrame({"user_id": "u", "item_id": "a", "timestamp": 5, "click": values})
    rows, understood = judged(run, log, **asked)
    return rows["click"].to_list(), rows["fault"].to_list(), understood.notes[1:]


@pytest.mark.parametrize(
    ("values", "read", "said"),
    [
        (["Y", "N", "y"], [1, 0, 1], "spelt y"),
        (["yes", "No", "YES "], [1, 0, 1], "spelt y"),
        (["t", "f", "f"], [1, 0, 0], "spelt y"),
        ([1, -1, -1], [1, 0, 0], "-1 are read as no click"),
        (["1", "-1", "1.0"], [1, 0, 1], "-1 are read as no click"),
        ([1, None, None], [1, 0, 0], "without a label are no clicks"),
        (["1", "", "1"], [1, 0, 1], "without a label are no clicks"),
        ([True, False, None], [1, 0, None], ""),
        ([1.0, 0.0, 0.0], [1, 0, 0], ""),
        ([-1, 0, 1], [None, 0, 1], ""),
        ([0, 1, 3], [0, 1, None], ""),
    ],
)
def test_labels(duck, values, read, said):
    found, faults, notes = clicks(duck, values)
    assert found == read
    assert [fault is not None for fault in faults] == [one is None for one in read], "what is no label is set aside"
    assert said in " ".join(notes) and bool(said) == bool(notes)


def test_a_few_missing_labels_are_mistakes(duck):
    found, faults, _ = clicks(duck, [1] * 98 + [None] * 2)
    assert faults.count("click missing") == 2 and found[:98] == [1] * 98


def test_events_that_are_clicks(duck):
    found, faults, _ = clicks(duck, ["view", "Purchase", "cart", None], click_values="purchase, cart")
    assert found == [0, 1, 1, None] and faults == [None, None, None, "click missing"]
    assert clicks(duck, [1, 2, 3], click_values="2,3")[0] == [0, 1, 1]


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ('"purchase, online"', [1, 0, 0]),
        ('"Purchase, Online", view', [1, 1, 0]),
        ('view,"a ""b"""', [0, 1, 1]),
        ("view, ,", [0, 1, 0]),
    ],
)
def test_labels_with_commas_stand_in_quotes(duck, asked, read):
    assert clicks(duck, ["purchase, online", "view", 'a "b"'], click_values=asked)[0] == read


def test_labels_that_no_row_has_are_named_as_they_are_given(duck):
    with pytest.raises(UserError, match="no row has a label of --click-values \"no, thanks\",b; it has 'view'"):
        clicks(duck, ["view"], click_values='"no, thanks",b')
    with pytest.raises(UserError, match="--click-values is ', ' and names no value"):
        clicks(duck, ["view"], click_values=", ")


def ids(run, values, kind=None, items=("12", "7"), **asked):
    log = pl.DataFrame({"user_id": "u", "item_id": pl.Series(values, dtype=kind), "timestamp": 5, "click": 1})
    rows, understood = judged(run, log, items=items, **asked)
    return rows["item"].to_list(), understood


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([12.0, 7.0], None),
        (["12.0", "7.00"], None),
        ([Decimal(12), Decimal(7)], pl.Decimal(38, 0)),
        ([Decimal("12.00"), Decimal("7.00")], pl.Decimal(10, 2)),
    ],
)
def test_whole_numbers_are_ids_in_any_type(duck, values, kind):
    assert ids(duck, values, kind)[0] == [0, 1]


def test_ids_that_no_float_holds_are_refused(duck):
    assert ids(duck, ["12.0", "x"], items=("12", "12.0"))[0] == [1, None], "not all are whole: nothing is left out"
    for values in ([12.5, 7.0], [2.0**53 + 2, 7.0]):
        with pytest.raises(UserError, match="no whole numbers that it holds exactly"):
            ids(duck, values)
    with pytest.raises(UserError, match="store ids as text or as integers"):
        ids(duck, [True, False])


def test_large_and_negative_ids_of_decimals(duck):
    large = [Decimal(10**30 + 1), Decimal(-7)]
    assert ids(duck, large, pl.Decimal(38, 0), items=(str(10**30 + 1), "-7"))[0] == [0, 1]
    assert ids(duck, [Decimal(-5), None], pl.Decimal(20, 0), items=("-5",))[0] == [0, None]


def test_how_ids_are_compared(duck):
    log, items = [" 12", "007", "0"], ("12 ", "7", "0")
    assert ids(duck, log, items=items)[0] == [None, None, 2]
    assert ids(duck, log, items=items, match="stripped")[0] == [0, None, 2]
    assert ids(duck, log, items=items, match="unpadded")[0] == [0, 1, 2]
    assert ids(duck, [12, 7, 0], items=("012", "7", "000"), match="unpadded")[0] == [0, 1, 2]
    with pytest.raises(UserError, match=r"makes items of the item list alike: \['7', '007'\]"):
        ids(duck, log, items=("7", "007"), match="unpadded")


def test_a_uuid_is_its_text(duck):
    one = UUID(int=5)
    table = duck.frame("uuids", pl.DataFrame({"item_id": [str(one)]}))
    table = table.mutate(item_id=table.item_id.cast("uuid"))
    read = read_id("item_id", table.item_id, Understood(ids={"item_id": "string"}))
    assert duck.rows(table.select(read=read))["read"].to_list() == [str(one)]
