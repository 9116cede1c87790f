"""Logs in every form that people have them in, and lines that are no row."""

import csv
import gzip
import io
import json
import shutil

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_helpers import notes, run, stopped, write_log

from data_tools.reading import lines
from data_tools.reading.form import Form
from data_tools.reading.text import Converter

COLUMNS = ["user_id", "item_id", "timestamp", "click"]


def compressed(path, data, kind):
    with pa.output_stream(str(path), compression=kind) as file:
        file.write(data)


def put(source, form):
    """The log of the fixture in another form; the name or glob to read it by."""
    log = pl.read_csv(source / "log.csv", infer_schema=False)
    halves = log[:150], log[150:]
    folder = source.parent / "in" / "parts"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    match form:
        case "tsv":
            log.write_csv(folder / "log.tsv", separator="\t")
        case "jsonl":
            typed = log.with_columns(pl.col("timestamp", "click").cast(pl.Int64))
            typed.rename({"user_id": "who"}).write_ndjson(folder / "log.jsonl")
        case "csv.zst":
            compressed(folder / "log.csv.zst", log.write_csv().encode(), "zstd")
        case "jsonl.gz":
            compressed(folder / "log.ndjson.gz", log.rename({"user_id": "who"}).write_ndjson().encode(), "gzip")
        case "csv folder":
            for number, half in enumerate(halves):
                half.write_csv(folder / f"{number}.csv")
        case "parquet glob":
            for number, half in enumerate(halves):
                half.write_parquet(folder / f"{number}.parquet")
            return "parts/*.parquet"
        case "parquet folder":
            for number, half in enumerate(halves):
                (folder / f"day={number}").mkdir()
                half.write_parquet(folder / f"day={number}" / "part.parquet")
    return "parts"


@pytest.mark.parametrize(
    "form", ["tsv", "jsonl", "jsonl.gz", "csv.zst", "csv folder", "parquet glob", "parquet folder"]
)
def test_every_form_of_a_log_gives_the_same_tables(source, plain, form):
    place = put(source, form)
    found = run(source, place, out="other", columns="user_id=who" if "jsonl" in form else "")
    assert found.info == plain.info
    shutil.rmtree(source / "parts")


def test_lines_that_are_no_row_are_counted_and_kept(source):
    rows = [
        "a,00,5,1",
        "b,01,6",
        "c,02,7,1,9",
        'd,"two\nlines",8,0',
        'e,"un"closed",9,1',
        'f,"never closed,9,1',
        "",
        "g,00,10,0,",
        "h,00,11,1",
    ]
    data = (
        "\n".join([",".join(COLUMNS), *rows, ""]).encode()
        + b"Jos\xe9,00,12,1\n\x00i,00,13,0\ri,01,13,1\r\nlast,00,14,1"
    )
    (source / "log.csv").write_bytes(data)
    dataset = run(source, max_bad_share=0.9)
    assert dataset.info["set_aside"] == {
        "item unknown": 1,
        lines.FIELDS: 2,
        lines.QUOTES: 2,
        lines.ENCODING: 1,
    }
    counts = dataset.info["counts"]
    assert counts["rows_read"] == 12 == counts["rows_set_aside"] + counts["impressions"]
    assert dataset.impressions["user_id"].to_list() == ["a", "g", "h", "\x00i", "i", "last"]
    aside = pl.read_parquet(dataset.folder / "set_aside_lines.parquet")
    assert aside.select("reason", "line", "text").rows() == [
        (lines.FIELDS, 3, "b,01,6"),
        (lines.FIELDS, 4, "c,02,7,1,9"),
        (lines.QUOTES, 7, 'e,"un"closed",9,1'),
        (lines.QUOTES, 8, 'f,"never closed,9,1'),
        (lines.ENCODING, 12, r"Jos\udce9,00,12,1"),
    ]
    message = stopped_at(source, dataset)
    assert "6 of 12 rows" in message and "wrong number of fields: 2" in message


def stopped_at(source, dataset):
    shutil.rmtree(dataset.folder)
    return stopped(source)


def test_json_lines_that_are_no_object_are_set_aside(source):
    ids = [2**63, 7, "007", "x"]
    rows = [
        json.dumps({"user_id": one, "item_id": "00", "timestamp": 5 + n, "click": True}) for n, one in enumerate(ids)
    ]
    rows += ["{", "[1]", "null", '{"user_id": "only"}', "  "]
    (source / "log.jsonl").write_text("\n".join(rows))
    dataset = run(source, "log.jsonl", max_bad_share=0.9)
    assert dataset.impressions["user_id"].to_list() == [str(2**63), "7", "007", "x"]
    assert dataset.info["set_aside"] == {"item_id missing": 1, lines.JSON: 3}
    assert dataset.info["counts"]["rows_read"] == 8


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("nothing/*.csv", {}, ["holds no file"]),
        ("mixed", {"a.csv": "x\n1\n", "b.tsv": "x\n1\n"}, ["several forms"]),
        ("odd", {"a.csv": "x\n1\n", "b.xls": "x"}, ["b.xls ends neither in .csv"]),
        ("other", {"a.csv": "x\n1\n", "b.csv": "y\n1\n"}, ["no column 'user_id'; it has ['x', 'y']"]),
        ("twice", {"a.csv": "user_id,user_id\n1,2\n"}, ["names the columns ['user_id'] more than once"]),
        ("keyless", {"a.jsonl": '{"a": 1}'}, ["has the keys ['a']"]),
    ],
)
def test_files_that_do_not_fit_are_told(source, name, files, words):
    if files:
        (source / name).mkdir()
    for file, text in files.items():
        (source / name / file).write_text(text)
    message = stopped(source, log=name)
    for word in words:
        assert word in message


def test_a_cut_gzip_file_is_told(source):
    data = gzip.compress((source / "log.csv").read_bytes())
    (source / "log.csv.gz").write_bytes(data[: len(data) // 2])
    assert "log.csv.gz cannot be read" in stopped(source, log="log.csv.gz")


def test_milliseconds_are_told_by_their_size_and_rows_of_another_unit_set_aside(source):
    rows = [f"u,{n:02},{1_700_000_000_000 + n * 1_000_000},0" for n in range(6)]
    write_log(source, [*rows, "u,10,1700000000,1", "u,11,2023-11-14,1"])
    dataset = run(source, max_bad_share=0.3, page_gap=1000)
    assert dataset.info["time_unit"] == "milliseconds"
    assert dataset.info["set_aside"] == {"timestamp in another unit": 1}
    assert dataset.info["counts"]["requests"] == 2, "page_gap is in seconds, whatever the unit of the log"
    assert run(source, out="shorter", max_bad_share=0.3, page_gap=999).info["counts"]["requests"] == 7
    stated = run(source, out="stated", time_unit="milliseconds").impressions
    assert stated.filter(item_id="11")["timestamp"].to_list() == [1_699_920_000_000]
    assert len(stated) == 8


def test_an_order_in_place_of_times(source):
    write_log(source, ["u,00,30,1", "v,01,20,0", "u,02,10,0", "u,00,40,1"])
    ordered = run(source, time_unit="order", page_slots=2)
    assert ordered.impressions["item_id"].to_list() == ["02", "01", "00", "00"]
    assert ordered.impressions["request"].to_list() == [0, 1, 0, 2]
    assert ordered.info["page_views"] == {"from": "gap", "gap": None, "slots": 2}
    (source / "bare.csv").write_text("user_id,item_id,click\nu,00,1\nu,00,0\nv,01,0\n")
    bare = run(source, "bare.csv", out="bare", time_unit="order")
    assert bare.impressions.select("timestamp", "item_id", "clicks_before").rows() == [
        (0, "00", 0),
        (1, "00", 1),
        (2, "01", 0),
    ]
    with pytest.raises(Exception, match="--time-unit order"):
        run(source, "bare.csv", out="untimed")


def test_unsigned_ids_of_64_bits(source):
    log = {"user_id": [2**63, 2**64 - 1], "item_id": [2**63 + 1, 5], "timestamp": [1, 2], "click": [0, 1]}
    frame = pl.DataFrame(log, schema_overrides={"user_id": pl.UInt64, "item_id": pl.UInt64})
    frame.write_parquet(source / "log.parquet")
    (source / "items.csv").write_text(f"item_id,image\n{2**63 + 1},00.png\n5,01.png\n")
    dataset = run(source, "log.parquet")
    assert dataset.impressions.select("user_id", "item_id", "item").rows() == [(2**63, 2**63 + 1, 0), (2**64 - 1, 5, 1)]
    assert dataset.clicks["user_id"].to_list() == [2**63, 2**64 - 1]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=8), st.sampled_from([",", "\t"]))
def test_both_readers_of_delimited_text_read_the_same(tmp_path, rows, delimiter):
    """DuckDB's, taken for a clean file, and the one that goes line by line, against what was written."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b", "c"], *rows])
    path = tmp_path / "log.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    form = Form(delimiter)
    found = list(lines.delimited(path, form, 3))
    assert [line.row for line in found] == [[cell or None for cell in row] for row in rows]
    out = tmp_path / "out.parquet"
    if Converter(tmp_path, "log", "1GB")._fast(path, form, ["a", "b", "c"], out):
        assert pl.read_parquet(out).rows() == [tuple(line.row) for line in found]


def typed(source, **columns):
    """A log of 40 impressions in Parquet as polars writes it: its statistics leave out NaN."""
    log = {"user_id": [1.0 * (n % 4) for n in range(40)], "item_id": ["00"] * 40, "timestamp": range(40), "click": 1}
    pl.DataFrame(log | columns, strict=False).write_parquet(source / "log.parquet")


@pytest.mark.parametrize("column", ["user_id", "timestamp", "click"])
def test_a_data_frames_nan_is_a_missing_value(source, column):
    values = {"user_id": 1.0, "timestamp": 5.0, "click": 1.0}
    typed(source, **{column: [float("nan"), *(values[column] + (column == "timestamp") * n for n in range(39))]})
    dataset = run(source, "log.parquet")
    assert dataset.info["set_aside"] == {f"{column} missing": 1}
    assert dataset.info["counts"]["impressions"] == 39


def test_values_that_are_to_be_clicks_have_to_be_there(source):
    write_log(source, [f"u,00,{n},{('view', 'buy')[n % 2]}" for n in range(8)])
    assert "no row has a label of --click-values bought; it has 'buy', 'view'" in stopped(source, click_values="bought")
    dataset = run(source, click_values="buy,add")
    assert dataset.info["counts"]["clicks"] == 4
    assert "no row has the label 'add' of --click-values" in dataset.info["understood"]


@pytest.mark.parametrize(("label", "said"), [("1", "a click: --unclicked draws"), ("0", "without a click")])
def test_labels_that_are_all_alike_are_said(source, label, said):
    write_log(source, [f"u,00,{n},{label}" for n in range(8)])
    assert any(said in note for note in run(source).info["understood"])


def test_a_label_beside_ratings_is_said_to_be_unused(source):
    write_log(source, [f"u,00,{n},0,5" for n in range(8)], "user_id,item_id,timestamp,click,rating")
    dataset = run(source, rating_threshold=3.0)
    assert "the column click is not used: clicks are ratings of --rating-threshold" in dataset.info["understood"]


def test_a_log_without_a_header_names_the_setting(source):
    write_log(source, ["u,01,2,1"], "u,00,17,1")
    assert "--header" in stopped(source)


def test_times_that_cannot_be_read_say_what_is_expected(source):
    write_log(source, ["u,00,soon,1"])
    assert "expected: seconds, milliseconds" in stopped(source)
    write_log(source, ['u,00,"45244,5",1'])
    assert "the fraction of a number must follow a point" in stopped(source)


def test_json_that_breaks_off_is_refused_or_read_once(source):
    whole = json.dumps([{"user_id": "u", "item_id": "00", "timestamp": n, "click": 1} for n in range(30)], indent=1)
    for cut in range(1, len(whole), 97):
        (source / "log.json").write_text(whole[:cut])
        assert "log.json" in stopped(source, log="log.json")


def test_files_are_taken_in_the_order_of_their_numbers(source):
    """As the rows of one file with the parts one behind the other."""
    rows = [f"u,{n:02},{int(n % 3 == 0)}" for n in range(12)]
    header = "user_id,item_id,click"
    write_log(source, rows, header)
    whole = run(source, time_unit="order", out="whole").impressions
    (source / "parts").mkdir()
    for n, row in enumerate(rows):
        write_log(source / "parts", [row], header, f"log-{n + 1}.csv")
    for out, place in {"folder": "parts", "glob": "parts/*.csv"}.items():
        parts = run(source, place, time_unit="order", out=out)
        assert parts.impressions.equals(whole)
        assert "in this order: log-1.csv, log-2.csv, log-3.csv, ..., log-12.csv" in notes(parts)
