"""Columns of logs as programs and people leave them: read and said, or one message with what to do."""

import json
import unicodedata
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_helpers import log, notes, parquet, run, stopped, typed

from data_tools.common.errors import UserError

NOTHING = {
    "timestamp": "column 'timestamp' is empty in every row",
    "user_id": "column 'user_id' (user_id) is empty in every row",
    "click": "click missing: 400",
}


@pytest.mark.parametrize("column", NOTHING)
def test_a_column_of_nothing_is_said_to_be_empty(source, column):
    assert NOTHING[column] in parquet(source, typed(source).with_columns(pl.lit(None).alias(column)))


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        (pl.format("'{}'", "item_id"), "would match without the quotes round them"),
        (pl.format("{}\u00a0", "item_id"), "would match without blanks round them: --match-ids stripped"),
        (pl.format('="{}"', "item_id"), "would match without the quotes round them"),
        (pl.format("\u200b{}", "item_id"), "would match without the characters in them that are not seen"),
        (pl.format("gid://shop/Product/{}", "item_id"), "would match without what stands before their last /"),
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


def test_the_mark_of_hive_is_nothing_and_words_for_it_are_said(source):
    frame, row = log(source), pl.int_range(pl.len())
    said = pl.when(row < 5).then(pl.lit("\\N")).when(row < 12).then(pl.lit("NULL")).otherwise("user_id")
    frame.with_columns(user_id=said).write_csv(source / "log.csv")
    dataset = run(source)
    assert dataset.info["set_aside"] == {"user_id missing": 5}
    assert "7 rows have a word such as null or nan for user_id, which is taken for an id" in notes(dataset)


def test_bytes_that_are_no_text_are_explained(source):
    frame = typed(source).with_columns(user_id=pl.lit(b"\xd1\xff\x03"))
    assert "ids that are bytes as hexadecimal text" in (said := parquet(source, frame)) and "SELECT" not in said


def test_a_first_line_of_names_is_no_other_file(source):
    log(source).rename({"user_id": "ORCID"}).write_csv(source / "log.csv")
    assert run(source, columns="user_id=ORCID").info["counts"]["impressions"] == 400


def changed(source, edit, name="log.csv"):
    (source / name).write_bytes(edit((source / name).read_bytes()))


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


def test_named_columns_of_a_log_without_a_header(source):
    changed(source, lambda data: data.partition(b"\n")[2])
    assert "if its first line is no header" in stopped(source, columns="user_id=player")


def test_zero_bytes_in_ids_are_said(source):
    """As programs leave them that pad text: with them an id is another."""
    padded = pl.format("{}\0", "user_id")
    half = log(source).with_columns(user_id=pl.when(pl.int_range(pl.len()) % 2 == 0).then(padded).otherwise("user_id"))
    half.write_csv(source / "half.csv")
    half.write_parquet(source / "half.parquet")
    (source / "half.jsonl").write_text("\n".join(map(json.dumps, half.to_dicts())))
    log(source).with_columns(item_id=pl.format("{}\0", "item_id")).write_csv(source / "log.csv")
    assert "100% of these ids would match without the characters in them that are not seen" in stopped(source)
    for name in ("half.csv", "half.parquet", "half.jsonl"):
        dataset = run(source, log=name, out=name)
        assert (
            "200 rows have a character in user_id that is not seen" in notes(dataset)
            and dataset.info["counts"]["users"] == 20
        )


WIDE = {"uint64": pa.uint64(), "decimal of 38 digits": pa.decimal128(38, 0)}


@pytest.mark.parametrize("kind", WIDE)
def test_ids_beyond_64_bits_are_whole(source, kind):
    """Of log and item list, and of a list in text."""
    start = 2**63 + 5 if kind == "uint64" else 10**30 + 1

    def wide(frame):
        table = frame.to_arrow()
        for name in {"item_id", "user_id"} & set(frame.columns):
            values = [Decimal(start + int(one.lstrip("u"))) for one in frame[name]]
            values = list(map(int, values)) if kind == "uint64" else values
            table = table.set_column(table.column_names.index(name), name, pa.array(values, WIDE[kind]))
        return table

    plain, items = run(source, out="plain"), pl.read_csv(source / "items.csv", infer_schema=False)
    pq.write_table(wide(typed(source)), source / "log.parquet")
    pq.write_table(wide(items), source / "items.parquet")
    text = pl.Series([str(start + int(one)) for one in items["item_id"]])
    items.with_columns(item_id=text).write_csv(source / "list.csv")
    for number, listed in enumerate(("items.parquet", "list.csv")):
        dataset = run(source, log="log.parquet", items=listed, out=f"wide{number}")
        same = ["user", "item", "timestamp", "click", "request"]
        assert dataset.impressions[same].equals(plain.impressions[same])
        assert set(map(str, dataset.items["item_id"])) == set(text)


def test_integers_of_128_bits_say_what_to_write(source):
    typed(source).with_columns(user_id=pl.lit(7).cast(pl.Int128)).write_parquet(source / "log.parquet")
    assert "write those of 128 bits as text, such as CAST(user_id AS VARCHAR)" in stopped(source, log="log.parquet")


def test_separators_of_thousands_in_ids_are_explained(source):
    pl.DataFrame({"item_id": [f"{1000 + item}" for item in range(20)]}).write_csv(source / "items.csv")
    log(source).with_columns(item_id=pl.format("1,0{}", "item_id")).write_csv(source / "log.csv")
    assert "would match without separators of thousands: write numbers without" in stopped(source, images=None)


@pytest.mark.parametrize("other", [pl.col("user_id").str.to_uppercase(), pl.format("{} ", "user_id")])
def test_users_in_two_spellings_are_said(source, other):
    assert "users differ" not in notes(run(source, out="plain"))
    spelt = pl.when(pl.int_range(pl.len()) % 2 == 0).then(other).otherwise("user_id")
    log(source).with_columns(user_id=spelt).write_csv(source / "log.csv")
    assert "10 users differ from others in upper and lower case, blanks round them or zeros" in notes(run(source))


@pytest.mark.parametrize("mark", ["x", "✓"])
def test_a_mark_for_a_click_and_nothing_for_none(source, mark):
    plain = run(source, out="plain").impressions
    marked = pl.when(pl.col("click") == "1").then(pl.lit(mark))
    log(source).with_columns(click=marked).write_csv(source / "log.csv")
    dataset = run(source, click_values=mark)
    assert dataset.impressions.equals(plain)
    assert "rows without a label are no clicks, as all others are clicks" in notes(dataset)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scenes_that_are_whole_numbers_are_written_without_a_fraction(source, kind):
    """Of a column with gaps, data frames make floats; 007 and 2.5 stay what they are."""
    row, text = pl.int_range(pl.len()), kind == "csv"
    scene = pl.when(row % 3 == 0).then(None).otherwise((row % 2).cast(pl.Float64))
    scene = pl.when(row == 1).then(2.5).otherwise(scene)
    frame = typed(source).with_columns(scene=scene.cast(pl.String) if text else scene)
    if text:
        frame = frame.with_columns(scene=pl.when(row == 2).then(pl.lit("007")).otherwise("scene"))
    getattr(frame, f"write_{kind}")(source / f"log.{kind}")
    found = run(source, log=f"log.{kind}").impressions["scene"]
    assert set(found) == {None, "0", "1", "2.5"} | ({"007"} if text else set())
