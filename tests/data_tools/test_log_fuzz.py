"""Logs of the worst kind: never a traceback, and every row of the input is either an impression or set aside."""

import csv
import io
import json
import re

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_helpers import run

from data_tools.common.cli import UserError

USERS = [
    "u",
    "007",
    "7",
    str(2**63),
    str(2**64),
    "-1",
    "é",
    "用户",
    "a b",
    "x" * 5000,
    "",
    "   ",
    "\u202e",
    "null",
    "'",
]
ITEMS = ["00", "01", "19", "0", "1e1", "", "ghost", "0" * 300]
TIMES = [
    *("1600000000", "1600000001.5", "1600000000123", "1.6e9", "-5", "0", "nan", "NaN", "inf", "-Infinity", "1e400"),
    *("2020-02-30", "2020-02-29", "2020-01-01T25:00:00", "2020-01-01T10:00:00+99:00", "12:30", "now", "1d", "0x10"),
    *("99999999999999999999", "2024-01-05T10:00:00Z", "", "1,5", "１６", "9223372036854775807"),
]
CLICKS = ["0", "1", "true", "FALSE", "2", "", "-0", "1.0", "yes", "nan", " 1 "]

cell = st.one_of(st.text(max_size=8), st.sampled_from([*USERS, *TIMES]))
row = st.tuples(
    st.sampled_from(USERS) | cell, st.sampled_from(ITEMS), st.sampled_from(TIMES) | cell, st.sampled_from(CLICKS)
)
sound = st.tuples(st.sampled_from("abc"), st.sampled_from(["00", "01"]), st.integers(0, 10**9).map(str), st.just("1"))
broken = st.sampled_from(["a", "a,b", 'x,"open', 'x,"q"x,1,1', "a,b,c,d,e", "\x00", ",,,,,,,"]) | st.binary(max_size=12)


REFUSED = ("say what they are with --time-unit", "has no usable impression", "which a spreadsheet made of long numbers")


def settled(source, rows, *places):
    """Prepare a log of so many rows: all are accounted for, or the log as a whole is refused in one message."""
    try:
        dataset = run(source, *places, out=f"d{next(RUNS)}", max_bad_share=1.0)
    except UserError as error:
        assert any(reason in str(error) for reason in REFUSED), error
        return
    counts = dataset.info["counts"]
    assert counts["rows_read"] == rows == counts["impressions"] + counts["rows_set_aside"]
    aside = [len(pl.read_parquet(dataset.folder / f"set_aside{part}.parquet")) for part in ("", "_lines")]
    assert sum(aside) == counts["rows_set_aside"] == sum(dataset.info["set_aside"].values())
    assert (
        len(dataset.impressions) == counts["impressions"]
        and dataset.clicks["items"].list.len().sum() == counts["clicks"]
    )


NO_VALUE = rb'( *|" *")(,( *|" *"))*'  # a line of nothing but delimiters
FUZZ = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
RUNS = iter(range(10**6))


@FUZZ
@given(st.lists(row, max_size=60), sound)
def test_any_values(source, rows, good):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([*rows, good])
    data = "user_id,item_id,timestamp,click\n" + text.getvalue()
    (source / "log.csv").write_bytes(data.encode("utf-8", "surrogatepass"))
    settled(source, len(rows) + 1)


@FUZZ
@given(st.lists(st.one_of(sound.map(",".join), broken), max_size=60))
def test_any_lines(source, rows):
    """What stands on a line of its own, without a line break, is one row or none, whatever stands above."""
    lines = [one if isinstance(one, bytes) else one.encode() for one in rows]
    lines = [line.replace(b"\r", b"").replace(b"\n", b"") for line in lines]
    lines = [line for line in lines if line.count(b'"') != 1 or line == b'x,"open']
    (source / "log.csv").write_bytes(b"\n".join([b"user_id,item_id,timestamp,click", b"a,00,1,1", *lines]))
    settled(source, sum(not re.fullmatch(NO_VALUE, line) for line in lines) + 1)


@FUZZ
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["user_id", "item_id", "timestamp", "click", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda one: st.lists(one, max_size=2),
                max_leaves=3,
            ),
        )
        | st.text(max_size=8).map(str.splitlines).map("".join),
        max_size=60,
    )
)
def test_any_json(source, rows):
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    good = '{"user_id": 1, "item_id": "00", "timestamp": 5, "click": true}'
    (source / "log.jsonl").write_bytes("\n".join([good, *lines]).encode("utf-8", "surrogatepass"))
    settled(source, sum(bool(one.strip()) for one in lines) + 1, "log.jsonl")


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1) | st.none(),
            st.sampled_from([0, 1, 19, 2**63]) | st.none(),
            st.floats() | st.sampled_from([1.6e9, 1.6e12]) | st.none(),
            st.sampled_from([0.0, 1.0, 0.5, float("nan"), None]),
        ),
        max_size=60,
    )
)
def test_any_typed_values(source, rows):
    schema = {"user_id": pl.UInt64, "item_id": pl.UInt64, "timestamp": pl.Float64, "click": pl.Float64}
    log = pl.DataFrame([*rows, (1, 10, 5.0, 1.0)], schema=schema, orient="row")
    log.write_parquet(source / "log.parquet")
    settled(source, len(log), "log.parquet")
