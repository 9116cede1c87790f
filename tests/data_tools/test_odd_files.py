"""Files of logs as programs and people leave them: read and said, or one message with what to do."""

import gzip
import json
import subprocess
import zipfile
from datetime import UTC, datetime

import polars as pl
import pytest
from prepare_helpers import log, notes, parquet, run, stopped, typed

from data_tools.common.errors import UserError


def test_json_written_column_by_column_makes_no_page_view_of_its_own(source):
    plain = run(source, out="plain")
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


def test_blanks_between_columns_are_read_where_asked(source):
    plain = run(source, out="plain")
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


def test_a_part_without_the_columns_is_named(source):
    """As split leaves them: only the first part has the header."""
    (source / "parts").mkdir()
    rows = (source / "log.csv").read_text().splitlines(keepends=True)
    for part, start in (("a", 0), ("b", 200)):
        (source / "parts" / f"{part}.csv").write_text("".join(rows[start : start + 200 or None]))
    said = stopped(source, log="parts")
    assert "b.csv, line 2: this file has no column 'user_id' but ['u" in said and "--header" in said


OBJECT = {
    "in a key": lambda rows: {"rows": rows},
    "by id": lambda rows: {row.pop("item_id"): row for row in rows},
    "of Elasticsearch": lambda rows: {"took": 3, "hits": {"total": 20, "hits": [{"_source": row} for row in rows]}},
    "of GraphQL": lambda rows: {"data": {"products": {"edges": [{"node": row} for row in rows]}}},
}


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
    assert "name those of one form alone, as in '" in said
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


@pytest.mark.parametrize("beside", ["a.csv.metadata", "manifest"])
def test_files_beside_a_log_are_left_out_by_the_glob_that_is_named(source, beside):
    """As Athena and Redshift leave them; one of no ending would be text, too."""
    (source / "parts").mkdir()
    text, name = beside.endswith("metadata"), "a.csv" if beside.endswith("metadata") else "a.parquet"
    (log(source).write_csv if text else typed(source).write_parquet)(source / "parts" / name)
    (source / "parts" / beside).write_text("{}")
    said = stopped(source, log="parts")
    glob = said.partition("alone, as in '")[2].partition("'")[0]
    assert run(source, log=glob.removeprefix(f"{source}/")).info["counts"]["impressions"] == 400


@pytest.mark.parametrize("name", ["log.parquet.gzip", "log.snappy.parquet", "log.csv.gzip"])
def test_endings_of_pandas_and_spark_are_read(source, name):
    plain = run(source, out="plain").impressions
    if "csv" in name:
        (source / name).write_bytes(gzip.compress((source / "log.csv").read_bytes()))
    else:
        log(source).write_parquet(source / name)
    assert run(source, log=name).impressions.equals(plain)


def test_values_of_mongodb_are_read(source):
    """Extended JSON, as mongoexport writes it: old and new, times as text and as numbers."""
    plain = run(source, out="plain").impressions
    rows = log(source).to_dicts()
    for row in rows:
        late = int(row["timestamp"]) % 2
        iso = datetime.fromtimestamp(int(row["timestamp"]), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        row["timestamp"] = {"$date": {"$numberLong": f"{row['timestamp']}000"} if late else iso}
        row |= {"_id": {"$oid": "5f5e0f0f"}, "user_id": {"$oid": row["user_id"]}, "click": {"$numberInt": row["click"]}}
    (source / "log.json").write_text("\n".join(map(json.dumps, rows)))
    dataset = run(source, log="log.json", time_unit="milliseconds")
    assert dataset.impressions["timestamp"].to_list() == [1000 * time for time in plain["timestamp"]]
    assert dataset.impressions["user_id"].equals(plain["user_id"]) and "values of MongoDB such as" in notes(dataset)


@pytest.mark.parametrize("value", [dict, json.dumps])
def test_messages_of_kafka_are_spread_by_the_command_that_is_named(source, value):
    """Rows inside a key, as objects or as text that is JSON in turn."""
    plain = run(source, out="whole/plain").impressions
    rows = [{"offset": number, "payload": value(row)} for number, row in enumerate(log(source).to_dicts())]
    (source / "log.json").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="Its column 'payload' holds user_id, item_id, timestamp, click") as caught:
        run(source, log="log.json")
    exec(str(caught.value).partition("python -c '")[2].partition("'")[0], {})
    assert run(source, log="log.json.flat.parquet").impressions.equals(plain)


def test_rotated_logs_are_read_whole(source):
    (source / "parts").mkdir()
    rows, rotated = log(source), ["csv", "csv.1", "csv.2.gz", "csv.2024-01-05", "CSV-20240105"]
    for n, ending in enumerate(rotated):
        text = rows[80 * n : 80 * n + 80].write_csv().encode()
        (source / "parts" / f"events.{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    assert run(source, log="parts").info["counts"]["impressions"] == 400


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (["a.csv", "b.csv.1", "notes.doc"], "parts/*.csv*'"),
        (["a.csv", "deep/b.csv", "notes.doc"], "parts/**/*.csv'"),
        (["a.csv", "b.csv.1", "a.csv.doc"], None),
        (["a.json", "b.ndjson", "notes.doc"], None),
    ],
)
def test_the_glob_that_is_named_leaves_out_no_part_of_a_log(source, names, example):
    for name in names:
        (source / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "parts" / name).write_text("x\n")
    said = stopped(source, log="parts")
    assert (example in said) if example else said.endswith("; name those of one form alone")
