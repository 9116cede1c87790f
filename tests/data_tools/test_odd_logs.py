"""Logs as programs and people leave them, each with what is right: read and said, or one message with what to do."""

import gzip
import json
import shlex
import subprocess
import unicodedata
import zipfile
from datetime import UTC, datetime

import polars as pl
import pyarrow.parquet as pq
import pytest
from prepare_helpers import run, stopped

from data_tools.common.errors import UserError


def log(source):
    return pl.read_csv(source / "log.csv", infer_schema=False)


def typed(source):
    return log(source).with_columns(pl.col("timestamp", "click").cast(pl.Int64))


def parquet(source, frame, **settings):
    frame.write_parquet(source / "log.parquet")
    return stopped(source, log="log.parquet", **settings)


def notes(dataset):
    return " ".join(dataset.info["understood"])


NOTHING = {
    "timestamp": "column 'timestamp' is empty in every row",
    "user_id": "column 'user_id' (user_id) is empty in every row",
    "click": "click missing: 400",
}


@pytest.mark.parametrize("column", NOTHING)
def test_a_column_of_nothing_is_said_to_be_empty(source, column):
    assert NOTHING[column] in parquet(source, typed(source).with_columns(pl.lit(None).alias(column)))


def test_a_time_of_day_is_no_time(source):
    times = pl.from_epoch("timestamp").dt.time().alias("timestamp")
    assert "is a time of day without a date" in parquet(source, typed(source).with_columns(times))


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        (pl.format("'{}'", "item_id"), "would match without the quotes round them"),
        (pl.format("{}\u00a0", "item_id"), "would match without blanks round them: --match-ids stripped"),
    ],
)
def test_ids_that_nearly_match_are_explained(source, changed, hint):
    log(source).with_columns(changed.alias("item_id")).write_csv(source / "log.csv")
    assert hint in stopped(source)


def test_ids_in_another_unicode_form_are_explained(source):
    items = pl.read_csv(source / "items.csv", infer_schema=False)
    composed = pl.format("é{}", "item_id")
    apart = composed.map_elements(lambda text: unicodedata.normalize("NFD", text), return_dtype=pl.String)
    items.with_columns(item_id=apart).write_csv(source / "items.csv")
    log(source).with_columns(item_id=composed).write_csv(source / "log.csv")
    assert "100% of these ids would match in one Unicode form: write them in NFC" in stopped(source)


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
    """The impressions of the log after the command that a message names."""
    command = shlex.split(said.partition("sed ")[2].partition(" OLD.csv")[0])
    (source / "log.csv").rename(source / "old.csv")
    new = subprocess.run(["sed", *command, source / "old.csv"], capture_output=True, text=True, check=True).stdout
    (source / "log.csv").write_text(new)
    return run(source).impressions


def test_decimal_commas_are_repaired_by_the_command_that_is_named(source, plain):
    changed = [pl.format("{},0", "timestamp"), pl.format("{},0", "click")]
    log(source).with_columns(changed).write_csv(source / "log.csv", separator=";")
    assert repaired(stopped(source), source).equals(plain.impressions)


def test_names_of_several_zones_are_repaired_by_the_command_that_is_named(source, plain):
    local = pl.from_epoch("timestamp") + pl.duration(hours=1)
    times = typed(source).select(timestamp=local.dt.strftime("%Y-%m-%d %H:%M:%S CET"))
    log(source).with_columns(times["timestamp"]).write_csv(source / "log.csv")
    said = stopped(source)
    assert "CET is the name of several zones" in said
    assert repaired(said, source)["timestamp"].equals(plain.impressions["timestamp"])


@pytest.mark.parametrize(("rating", "hint"), [("3,5", "must follow a point"), ("3 stars", "must be a number alone")])
@pytest.mark.parametrize("threshold", [3.0, "own_mean"])
def test_ratings_that_are_no_numbers_are_explained(source, rating, hint, threshold):
    log(source).drop("click").with_columns(rating=pl.lit(rating)).write_csv(source / "log.csv", separator=";")
    assert hint in stopped(source, rating_threshold=threshold)


def test_the_mark_of_hive_is_nothing_and_words_for_it_are_said(source):
    frame, row = log(source), pl.int_range(pl.len())
    said = pl.when(row < 5).then(pl.lit("\\N")).when(row < 12).then(pl.lit("NULL")).otherwise("user_id")
    frame.with_columns(user_id=said).write_csv(source / "log.csv")
    dataset = run(source)
    assert dataset.info["set_aside"] == {"user_id missing": 5}
    assert "7 rows have a word such as null or nan for user_id, which is taken for an id" in notes(dataset)


def moment(pattern):
    return pl.from_epoch(pl.col("timestamp").cast(pl.Int64)).dt.strftime(pattern).alias("timestamp")


def test_the_basic_form_of_iso_times_is_read(source, plain):
    log(source).with_columns(moment("%Y%m%dT%H%M%SZ")).write_csv(source / "log.csv")
    dataset = run(source)
    assert dataset.impressions.equals(plain.impressions) and "YYYYMMDDTHHMMSS" in notes(dataset)


def test_times_with_and_without_a_zone_in_one_column_are_said(source, plain):
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


def test_json_written_column_by_column_makes_no_page_view_of_its_own(source, plain):
    (source / "log.json").write_text(json.dumps(log(source).to_dict(as_series=False)))
    dataset = run(source, log="log.json")
    assert dataset.info["counts"] == plain.info["counts"]
    assert "one row for several impressions" in notes(dataset)


@pytest.mark.parametrize(
    ("changed", "spread"),
    [
        (lambda frame: frame.select(event=pl.struct(pl.all())), '.unnest("event")'),
        (
            lambda frame: frame.group_by("user_id").agg(events=pl.struct("item_id", "timestamp", "click")),
            '.explode("events").unnest("events")',
        ),
    ],
)
def test_nested_columns_are_named_with_the_command_that_spreads_them(source, changed, spread):
    said = parquet(source, changed(typed(source)))
    assert "holds user_id, item_id" in said or "holds item_id, timestamp, click in each row" in said
    command = said.partition("python -c '")[2].partition("'")[0]
    assert spread in command
    exec(command)
    assert run(source, log="log.parquet.flat.parquet").info["counts"]["impressions"] == 400


def test_bytes_that_are_no_text_are_explained(source):
    frame = typed(source).with_columns(user_id=pl.lit(b"\xd1\xff\x03"))
    assert "ids that are bytes as hexadecimal text" in (said := parquet(source, frame)) and "SELECT" not in said


def test_a_part_without_columns_is_passed_over(source):
    (source / "parts").mkdir()
    typed(source).write_parquet(source / "parts" / "a.parquet")
    pl.DataFrame().write_parquet(source / "parts" / "b.parquet")
    assert run(source, log="parts").info["counts"]["impressions"] == 400


def test_a_file_without_columns_is_said_to_have_none(source):
    assert "log.parquet has no columns" in parquet(source, pl.DataFrame())


def test_files_inside_files_are_named(source):
    text = (source / "log.csv").read_bytes()
    (source / "twice.csv.gz").write_bytes(gzip.compress(gzip.compress(text)))
    assert "is gzip inside gzip; decompress it first" in stopped(source, log="twice.csv.gz")
    with zipfile.ZipFile(source / "outer.zip", "w") as archive:
        archive.writestr("inner.csv.gz", gzip.compress(text))
    assert "is gzip inside zip; decompress it first" in stopped(source, log="outer.zip")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n<!DOCTYPE html>\n<html>Please log in</html>", "is a web page, perhaps that of a login"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "fetch it: git lfs pull"),
        (
            "user_id item_id timestamp click\nu 00 1600000000 1\n",
            "if blanks stand between its columns: --delimiter ' '",
        ),
    ],
)
def test_what_is_no_log_is_named(source, text, said):
    (source / "log.csv").write_text(text)
    assert said in stopped(source)


def test_a_first_line_of_names_is_no_other_file(source):
    log(source).rename({"user_id": "ORCID"}).write_csv(source / "log.csv")
    assert run(source, columns="user_id=ORCID").info["counts"]["impressions"] == 400


def test_blanks_between_columns_are_read_where_asked(source, plain):
    (source / "log.csv").write_text((source / "log.csv").read_text().replace(",", " "))
    assert run(source, delimiter=" ").impressions.equals(plain.impressions)


def changed(source, edit, name="log.csv"):
    (source / name).write_bytes(edit((source / name).read_bytes()))


def test_lines_are_counted_as_the_user_sees_them(source):
    log(source).with_columns(
        item_id=pl.when(pl.int_range(pl.len()) == 99).then(pl.lit("no")).otherwise("item_id")
    ).write_csv(source / "log.csv")
    changed(source, lambda data: b"Report\n" + data.replace(b"\n", b"\n,,,\n", 50))
    assert "log.csv, line 152: item_id 'no'" in stopped(source, max_bad_share=0)


def test_a_name_that_stands_twice_is_refused_where_it_matters(source):
    log(source).select("user_id", "item_id", "timestamp", "click", y=2).write_csv(source / "log.csv")
    changed(source, lambda data: data.replace(b"y", b"click", 1))
    assert "names the columns ['click'] more than once" in stopped(source)


def test_a_column_twice_in_parquet_is_refused_where_it_matters(source):
    table = typed(source).to_arrow()
    pq.write_table(table.append_column("click", table["click"]), source / "log.parquet")
    assert "has the columns ['click'] more than once; rename all but one" in stopped(source, log="log.parquet")
    items = pl.read_csv(source / "items.csv", infer_schema=False).to_arrow()
    pq.write_table(items.append_column("price", items["price"]), source / "items.parquet")
    assert "rename all but one" in stopped(source, items="items.parquet")


def test_names_in_other_spelling_are_offered(source):
    log(source).rename({"user_id": "USER_ID", "item_id": "itemId"}).write_csv(source / "log.csv", separator=";")
    said = stopped(source)
    assert "say which one it is: user_id=USER_ID,item_id=itemId" in said
    columns = said.partition("say which one it is: ")[2].split()[0]
    assert run(source, columns=columns).info["counts"]["impressions"] == 400


def test_a_part_without_the_columns_is_named(source):
    """As split leaves them: only the first part has the header."""
    (source / "parts").mkdir()
    rows = (source / "log.csv").read_text().splitlines(keepends=True)
    for part, start in (("a", 0), ("b", 200)):
        (source / "parts" / f"{part}.csv").write_text("".join(rows[start : start + 200 or None]))
    said = stopped(source, log="parts")
    assert "b.csv, line 2: this file has no column 'user_id' but ['u" in said and "--header" in said


OBJECT = {"in a key": lambda rows: {"rows": rows}, "by id": lambda rows: {row.pop("item_id"): row for row in rows}}


@pytest.mark.parametrize("form", OBJECT)
def test_rows_inside_one_object_are_named_with_the_command_that_takes_them_out(source, form):
    rows = pl.read_csv(source / "items.csv", infer_schema=False).to_dicts()
    (source / "items.json").write_text(json.dumps(OBJECT[form](rows)))
    command = stopped(source, items="items.json").partition('python -c "')[2].partition('"')[0]
    exec(command, {})
    assert run(source, items="items.rows.json").info["counts"]["items_with_image"] == 20


def test_json_that_is_cut_or_empty_is_said_to_be(source):
    for text in (json.dumps(log(source).to_dicts())[:-50], "[]", ""):
        (source / "log.json").write_text(text)
        assert "holds no JSON object" in stopped(source, log="log.json")


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


def test_ids_that_float32_does_not_hold_are_refused(source):
    """Two of three neighbours above 2^24 are one number: ten users were six."""
    users = (pl.int_range(pl.len()) % 10 + 20_000_001).cast(pl.Float32)
    assert "user_id) is float32 and has values such as 200000" in parquet(
        source, typed(source).with_columns(user_id=users)
    )
    small = typed(source).with_columns(user_id=(pl.int_range(pl.len()) % 10).cast(pl.Float32))
    small.write_parquet(source / "log.parquet")
    assert run(source, log="log.parquet").info["counts"]["users"] == 10
    items = pl.read_csv(source / "items.csv", infer_schema=False).with_columns(
        item_id=(pl.int_range(pl.len()) + 20_000_001).cast(pl.Float32)
    )
    items.write_parquet(source / "items.parquet")
    with pytest.raises(UserError, match="the item list's item_id is Float32; store ids as text or as integers"):
        run(source, log="log.parquet", items="items.parquet", out="other")


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


LAKES = {
    "_delta_log/0.json": "is a table of Delta Lake, whose folder also has files of rows that were removed",
    "metadata/v1.metadata.json": "is a table of Iceberg",
    ".hoodie/hoodie.properties": "is a table of Hudi",
}


@pytest.mark.parametrize("mark", LAKES)
def test_a_table_of_a_lake_is_not_taken_for_its_files(source, mark):
    place = source / "lake" / mark
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    typed(source).write_parquet(source / "lake" / "part.parquet")
    assert LAKES[mark] in stopped(source, log="lake")


def test_another_file_in_the_folder_of_a_log_is_named_with_the_glob_that_leaves_it_out(source):
    (source / "parts").mkdir()
    typed(source).write_parquet(source / "parts" / "a.parquet")
    (source / "parts" / "README.md").write_text("hello")
    said = stopped(source, log="parts")
    assert "name the others alone, as in '" in said
    glob = said.partition("as in '")[2].partition("'")[0]
    assert run(source, log=glob.removeprefix(f"{source}/")).info["counts"]["impressions"] == 400


NEARLY_JSON = {
    "python": (str, "it is an object of Python, not of JSON"),
    "commas": (lambda row: json.dumps(row) + ",", "leave out the commas between lines"),
    "separators": (lambda row: "\x1e" + json.dumps(row), "leave out the record separators"),
}


@pytest.mark.parametrize("form", NEARLY_JSON)
def test_lines_that_are_nearly_json_are_mended_by_the_command_that_is_named(source, form):
    """The reviews of Amazon of 2014 are objects of Python; RFC 7464 has record separators."""
    write, hint = NEARLY_JSON[form]
    (source / "OLD.json").write_text("".join(f"{write(row)}\n" for row in log(source).to_dicts()))
    said = stopped(source, log="OLD.json")
    assert hint in said
    command = said.partition(f"{hint}: ")[2].partition("NEW.json")[0] + "NEW.json"
    subprocess.run(command, shell=True, check=True, cwd=source)
    assert run(source, log="NEW.json").info["counts"]["impressions"] == 400


def test_a_key_that_stands_twice_in_an_object_is_set_aside(source):
    lines = [json.dumps(row) for row in log(source).to_dicts()]
    lines[7] = lines[7][:-1] + ', "click": 1}'
    (source / "log.jsonl").write_text("\n".join(lines))
    assert run(source, log="log.jsonl").info["set_aside"] == {"a key stands twice": 1}


def test_named_columns_of_a_log_without_a_header(source):
    changed(source, lambda data: data.partition(b"\n")[2])
    assert "if its first line is no header" in stopped(source, columns="user_id=player")
