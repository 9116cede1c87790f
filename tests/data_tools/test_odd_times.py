"""Times and numbers of logs as programs and people write them: read and said, or one message with what to do."""

import shlex
import subprocess
from datetime import UTC, datetime

import polars as pl
import pytest
from prepare_helpers import log, notes, parquet, run, stopped, typed


def test_a_time_of_day_is_no_time(source):
    times = pl.from_epoch("timestamp").dt.time().alias("timestamp")
    assert "is a time of day without a date" in parquet(source, typed(source).with_columns(times))


@pytest.mark.parametrize(
    ("column", "changed", "hint"),
    [
        ("click", pl.format("{},0", "click"), "the fraction of a number must follow a point, not a comma"),
        ("timestamp", pl.format("{},5", "timestamp"), "the fraction of a number must follow a point"),
        ("timestamp", pl.lit("1,600,000,224"), "the thousands of a number must have nothing between them"),
        ("timestamp", pl.lit("1.600.000.224"), "the thousands of a number must have nothing between them"),
    ],
)
def test_numbers_of_other_countries_are_explained(source, column, changed, hint):
    log(source).with_columns(changed.alias(column)).write_csv(source / "log.csv", separator=";")
    assert hint in (said := stopped(source)) and "--click-values" not in said


def repaired(said, source):
    """The impressions of the log after the command that a message names, and those of the log in its usual form."""
    command = shlex.split(said.partition("sed ")[2].partition(" OLD.csv")[0])
    (source / "log.csv").rename(source / "old.csv")
    new = subprocess.run(["sed", *command, source / "old.csv"], capture_output=True, text=True, check=True).stdout
    (source / "log.csv").write_text(new)
    return run(source).impressions


def test_decimal_commas_are_repaired_by_the_command_that_is_named(source):
    plain = log(source)
    changed = [pl.format("{},0", "timestamp"), pl.format("{},0", "click")]
    plain.with_columns(changed).write_csv(source / "log.csv", separator=";")
    found = repaired(stopped(source), source)
    plain.write_csv(source / "log.csv")
    assert found.equals(run(source, out="plain").impressions)


def test_names_of_several_zones_are_repaired_by_the_command_that_is_named(source):
    plain, local = log(source), pl.from_epoch("timestamp") + pl.duration(hours=1)
    times = typed(source).select(timestamp=local.dt.strftime("%Y-%m-%d %H:%M:%S CET"))
    plain.with_columns(times["timestamp"]).write_csv(source / "log.csv")
    said = stopped(source)
    assert "CET is the name of several zones" in said
    found = repaired(said, source)
    plain.write_csv(source / "log.csv")
    assert found["timestamp"].equals(run(source, out="plain").impressions["timestamp"])


@pytest.mark.parametrize(("rating", "hint"), [("3,5", "must follow a point"), ("3 stars", "must be a number alone")])
@pytest.mark.parametrize("threshold", [3.0, "own_mean"])
def test_ratings_that_are_no_numbers_are_explained(source, rating, hint, threshold):
    log(source).drop("click").with_columns(rating=pl.lit(rating)).write_csv(source / "log.csv", separator=";")
    assert hint in stopped(source, rating_threshold=threshold)


def moment(pattern):
    return pl.from_epoch(pl.col("timestamp").cast(pl.Int64)).dt.strftime(pattern).alias("timestamp")


def test_the_basic_form_of_iso_times_is_read(source):
    plain = run(source, out="plain")
    log(source).with_columns(moment("%Y%m%dT%H%M%SZ")).write_csv(source / "log.csv")
    dataset = run(source)
    assert dataset.impressions.equals(plain.impressions) and "YYYYMMDDTHHMMSS" in notes(dataset)


def test_iso_times_in_small_letters_are_read(source):
    plain = run(source, out="plain")
    log(source).with_columns(moment("%Y-%m-%dt%H:%M:%Sz")).write_csv(source / "log.csv")
    assert run(source).impressions.equals(plain.impressions)


def test_times_with_and_without_a_zone_in_one_column_are_said(source):
    plain = run(source, out="plain")
    row = pl.int_range(pl.len())
    zoned = pl.when(row % 4 == 0).then(moment("%Y-%m-%dT%H:%M:%SZ")).otherwise(moment("%Y-%m-%dT%H:%M:%S"))
    log(source).with_columns(zoned.alias("timestamp")).write_csv(source / "log.csv")
    dataset = run(source)
    assert dataset.impressions.equals(plain.impressions)
    assert "300 of the times name no zone, as others do: taken for UTC" in notes(dataset)


def test_days_alone_are_not_said_to_lack_a_zone(source):
    frame = log(source).with_columns(moment("%Y-%m-%d")).unique(["user_id", "item_id", "timestamp"])
    frame.write_csv(source / "log.csv")
    assert "zone" not in notes(run(source))


def test_offsets_of_a_zone_across_the_change_of_its_clock(source):
    """The night in which clocks go back has an hour twice: its offset tells the two apart."""
    frame = log(source).head(100)
    start = int(datetime(2023, 10, 28, 20, tzinfo=UTC).timestamp())
    times = pl.from_epoch(start + pl.int_range(pl.len()) * 300).dt.replace_time_zone("UTC")
    local = times.dt.convert_time_zone("Europe/Berlin").dt.strftime("%Y-%m-%dT%H:%M:%S%z")
    frame.with_columns(timestamp=local).write_csv(source / "log.csv")
    found = run(source).impressions["timestamp"].sort().to_list()
    assert found == [start + 300 * row for row in range(100)]


def test_rows_that_are_all_bad_are_given_their_reasons(source):
    log(source).with_columns(timestamp=pl.lit("2020-09")).write_csv(source / "log.csv")
    assert "timestamp unreadable: 400" in stopped(source, max_bad_share=1)


def test_a_date_that_stands_for_none_is_explained(source):
    log(source).with_columns(timestamp=pl.lit("9999-12-31")).write_csv(source / "log.csv")
    assert "no log has times from there: leave the time out" in stopped(source)


def test_years_of_two_digits_are_repaired_by_the_command_that_is_named(source):
    wanted = sorted(typed(source)["timestamp"])
    log(source).with_columns(moment("%d/%m/%y %H:%M:%S")).write_csv(source / "log.csv")
    said = stopped(source)
    assert "years must have four digits" in said and sorted(repaired(said, source)["timestamp"]) == wanted


def test_numbers_that_a_spreadsheet_rounded_are_refused_or_said(source):
    frame = log(source)
    frame.with_columns(user_id=pl.lit("8.60E+12")).write_csv(source / "log.csv")
    assert "has ids such as 8.60E+12, which a spreadsheet made of long numbers" in stopped(source)
    frame.with_columns(user_id=pl.lit("1.0000000000000002e+16")).write_csv(source / "log.csv")
    assert run(source, out="whole").info["counts"]["users"] == 1
    times = [f"{int(time) * 1000:.8E}" for time in frame["timestamp"]]
    frame.with_columns(timestamp=pl.Series(times)).write_csv(source / "log.csv")
    assert "400 times such as 1.60E+09 were rounded by a spreadsheet" in notes(run(source))


def test_times_of_few_digits_are_said(source):
    typed(source).with_columns(pl.col("timestamp").cast(pl.Float32)).write_parquet(source / "log.parquet")
    assert "times are float32, which holds some seven digits" in notes(
        run(source, log="log.parquet", max_bad_share=0.2)
    )


def test_a_log_of_one_moment_is_said_to_leave_nothing_to_train_on(source):
    users = pl.format("u{}", pl.int_range(pl.len()))
    log(source).with_columns(timestamp=pl.lit("2024-01-01"), user_id=users).write_csv(source / "log.csv")
    assert "nothing is left to train on" in notes(run(source))


@pytest.mark.parametrize("form", ["%G-W%V-%u", "%GW%V%u", "%Y-%j", "%Y-%jT%H:%M:%SZ"])
def test_days_of_weeks_and_of_years_are_made_dates_by_the_command_that_is_named(source, form):
    unit = 1 if "%S" in form else 86_400
    wanted = sorted(time // unit * unit for time in typed(source)["timestamp"])
    users = log(source).with_columns(moment(form), user_id=pl.format("u{}", pl.int_range(pl.len())))
    users.write_csv(source / "OLD.csv")
    said = stopped(source, log="OLD.csv")
    assert "is the day of a week or of a year; write its date" in said
    command = said.partition("write its date: ")[2].partition('NEW.csv")')[0] + "NEW.csv\")'"
    subprocess.run(command, shell=True, check=True, cwd=source)
    assert sorted(run(source, log="NEW.csv").impressions["timestamp"]) == wanted


FINE = {
    "iso": "%Y-%m-%dT%H:%M:%S%.3fZ",
    "iso with a zone": "%Y-%m-%d %H:%M:%S,%6f+01:00",
    "day first": "%d/%m/%Y %H:%M:%S%.3f",
    "half days": "%d %b %Y %I:%M:%S%.3f %p",
    "named zone": "%d %b %Y %H:%M:%S%.3f Europe/Paris",
    "basic": "%Y%m%dT%H%M%S%.3fZ",
}


def finer(source):
    """The log with milliseconds, a row of them twice within a second, and as the time of each."""
    frame = typed(source).head(200)
    frame = pl.concat([frame, frame.with_columns(pl.col("timestamp"))]).with_row_index()
    fine = pl.col("timestamp") * 1000 + pl.col("index") * 7 % 1000 * (pl.col("index") % 3 > 0) + pl.col("index") // 200
    frame = frame.with_columns(timestamp=fine.cast(pl.Int64)).drop("index")
    return frame, frame.with_columns(pl.from_epoch("timestamp", "ms").alias("timestamp"))


@pytest.mark.parametrize("form", FINE)
def test_fractions_of_a_second_in_text_are_kept(source, form):
    numbers, times = finer(source)
    numbers.write_csv(source / "log.csv")
    plain = run(source, out="plain")
    ahead = {"iso with a zone": pl.duration(hours=1), "named zone": pl.duration(hours=2)}.get(form, pl.duration())
    text = (pl.col("timestamp").cast(pl.Datetime("us")) + ahead).dt.strftime(FINE[form])
    times.with_columns(timestamp=text).write_csv(source / "log.csv")
    dataset = run(source, day_first=True)
    assert dataset.impressions.equals(plain.impressions) and dataset.info["time_unit"] == "milliseconds"
    assert "times have fractions of a second and are kept in milliseconds" in notes(dataset)


@pytest.mark.parametrize("kind", [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC")])
def test_fractions_of_a_second_in_parquet_are_kept(source, kind):
    numbers, times = finer(source)
    numbers.write_csv(source / "log.csv")
    plain = run(source, out="plain")
    times = times.with_columns(pl.col("timestamp").cast(pl.Datetime(kind.time_unit)))
    if kind.time_zone:
        times = times.with_columns(pl.col("timestamp").dt.replace_time_zone(kind.time_zone))
    times.write_parquet(source / "log.parquet")
    dataset = run(source, log="log.parquet")
    assert dataset.impressions.equals(plain.impressions) and dataset.info["time_unit"] == "milliseconds"
    assert "times have fractions of a second and are kept in milliseconds" in notes(dataset)


def test_fractions_of_no_date_or_of_nothing_leave_seconds(source):
    plain = run(source, out="plain")
    end = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("9999-12-31 23:59:59.999"))
    log(source).with_columns(end.otherwise(moment("%Y-%m-%d %H:%M:%S.000")).alias("timestamp")).write_csv(
        source / "log.csv"
    )
    dataset = run(source)
    assert dataset.info["time_unit"] == plain.info["time_unit"] == "seconds" and "fractions" not in notes(dataset)
    assert dataset.info["set_aside"] == {"timestamp unreadable": 1}


def test_numbers_among_times_with_fractions_are_seconds_like_these(source):
    _, times = finer(source)
    row = pl.int_range(pl.len())
    seconds = pl.col("timestamp").dt.epoch("s").cast(pl.String)
    text = pl.when(row % 4 == 0).then(seconds).otherwise(pl.col("timestamp").dt.strftime(FINE["iso"]))
    wanted = pl.when(row % 4 == 0).then(pl.col("timestamp").dt.epoch("s") * 1000)
    wanted = wanted.otherwise(pl.col("timestamp").dt.epoch("ms"))
    times.with_columns(timestamp=text).write_csv(source / "log.csv")
    found = run(source, max_bad_share=1).impressions
    kept = times.select("user_id", "item_id", timestamp=wanted).unique()
    assert sorted(found["timestamp"]) == sorted(kept["timestamp"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("start", [0, 1_600_000_000])
def test_seconds_with_fractions_are_kept(source, kind, start):
    """As Python's time.time() gives them, or from a start of the log's own."""
    numbers, _ = finer(source)
    seconds = (pl.col("timestamp") - 1_600_000_000_000) / 1000 + start
    getattr(numbers.with_columns(timestamp=seconds), f"write_{kind}")(source / f"log.{kind}")
    dataset = run(source, log=f"log.{kind}")
    wanted = numbers["timestamp"] - 1_600_000_000_000 + start * 1000
    assert dataset.impressions["timestamp"].to_list() == sorted(wanted) and not dataset.info["set_aside"]
    assert "kept in milliseconds" in notes(dataset)
