"""What prepare makes of a log in every form: rows read, kept and set aside, as Markdown.

python tests/benchmarks/inputs.py > table.md

Every log says the same: 1,000 impressions of 40 users on 50 items in time order, in one form or with one thing wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.prepare import Settings, prepare

ROWS, ITEMS = 1000, 50
Case = tuple[str, str, Callable[[Path, pl.DataFrame], str], dict]


def log() -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user_id": [f"u{user:03}" for user in random.integers(0, 40, ROWS)],
            "item_id": [f"{item:02}" for item in random.integers(0, ITEMS, ROWS)],
            "timestamp": 1_700_000_000 + np.arange(ROWS) * 60,
            "click": random.integers(0, 2, ROWS),
        }
    )


def text(name: str, frame: Callable[[pl.DataFrame], pl.DataFrame] = lambda one: one, **options) -> Callable:
    """A CSV of the frame under a name, compressed as its ending says."""

    def write(folder: Path, rows: pl.DataFrame) -> str:
        with pa.output_stream(str(folder / name), compression="detect") as file:
            file.write(frame(rows).write_csv(**options).encode())
        return name

    return write


def json_lines(folder: Path, rows: pl.DataFrame) -> str:
    rows.write_ndjson(folder / "log.jsonl")
    return "log.jsonl"


def parquet(frame: Callable[[pl.DataFrame], pl.DataFrame] = lambda one: one) -> Callable:
    def write(folder: Path, rows: pl.DataFrame) -> str:
        frame(rows).write_parquet(folder / "log.parquet")
        return "log.parquet"

    return write


def parts(place: str) -> Callable:
    def write(folder: Path, rows: pl.DataFrame) -> str:
        (folder / "days").mkdir()
        for day in range(4):
            rows[day * 250 : day * 250 + 250].write_csv(folder / "days" / f"{day}.csv")
        return place

    return write


def lines(change: Callable[[int, bytes], bytes]) -> Callable:
    """A CSV whose every 100th line is changed."""

    def write(folder: Path, rows: pl.DataFrame) -> str:
        whole = rows.write_csv().encode().splitlines()
        changed = [change(n, line) if n and n % 100 == 0 else line for n, line in enumerate(whole)]
        (folder / "log.csv").write_bytes(b"\n".join(changed) + b"\n")
        return "log.csv"

    return write


def value(column: str, *values: str) -> Callable:
    """A CSV in which a column of every 100th row holds something else."""

    def put(rows: pl.DataFrame) -> pl.DataFrame:
        cells = rows[column].cast(pl.String).to_list()
        for place in range(0, ROWS, 100):
            cells[place] = values[place // 100 % len(values)]
        return rows.with_columns(pl.Series(column, cells))

    return text("log.csv", put)


def times(kind: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        moments = [datetime.fromtimestamp(second, UTC) for second in rows["timestamp"]]
        made = {
            "ISO": [moment.isoformat() for moment in moments],
            "days": [moment.date().isoformat() for moment in moments],
            "milliseconds": (rows["timestamp"] * 1000).to_list(),
            "float": (rows["timestamp"] + 0.25).to_list(),
            "datetime": [moment.replace(tzinfo=None) for moment in moments],
            "order": list(range(ROWS)),
        }[kind]
        return rows.with_columns(pl.Series("timestamp", made))

    return change


def stars(rows: pl.DataFrame) -> pl.DataFrame:
    rating = np.random.default_rng(1).integers(1, 11, ROWS) / 2
    return rows.drop("click").with_columns(rating=pl.Series(rating))


def clicks(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop("click")


def cut(folder: Path, rows: pl.DataFrame) -> str:
    text("whole.csv.gz")(folder, rows)
    whole = (folder / "whole.csv.gz").read_bytes()
    (folder / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
    return "log.csv.gz"


CASES: list[Case] = [
    ("files", "one CSV", text("log.csv"), {}),
    ("files", "CSV, gzip", text("log.csv.gz"), {}),
    ("files", "CSV, zstd", text("log.csv.zst"), {}),
    ("files", "CSV with byte order mark and CRLF", text("log.csv", include_bom=True, line_terminator="\r\n"), {}),
    ("files", "TSV", text("log.tsv", separator="\t"), {}),
    ("files", "JSON lines", json_lines, {}),
    ("files", "Parquet", parquet(), {}),
    ("files", "a folder of four CSV", parts("days"), {}),
    ("files", "a glob of two of four CSV", parts("days/[01].csv"), {}),
    ("times", "ISO text with a zone", text("log.csv", times("ISO")), {}),
    ("times", "dates, so rows repeat", text("log.csv", times("days")), {"max_bad_share": 0.2}),
    ("times", "seconds with a fraction", text("log.csv", times("float")), {}),
    ("times", "milliseconds", text("log.csv", times("milliseconds")), {}),
    ("times", "Parquet timestamps", parquet(times("datetime")), {}),
    ("times", "an order column", text("log.csv", times("order")), {"time_unit": "order"}),
    ("times", "no time at all", text("log.csv", lambda rows: rows.drop("timestamp")), {"time_unit": "order"}),
    ("labels", "booleans", parquet(lambda rows: rows.with_columns(pl.col("click") == 1)), {}),
    ("labels", "ratings, threshold 3.5", text("log.csv", stars), {"rating_threshold": 3.5}),
    ("labels", "ratings, the user's own mean", text("log.csv", stars), {"rating_threshold": "own_mean"}),
    ("labels", "clicks alone, 2 uniform draws", text("log.csv", clicks), {"unclicked": 2}),
    (
        "labels",
        "clicks alone, 2 by popularity",
        text("log.csv", clicks),
        {"unclicked": 2, "unclicked_from": "popularity"},
    ),
    (
        "labels",
        "clicks alone, 2 of the category",
        text("log.csv", clicks),
        {"unclicked": 2, "unclicked_from": "category"},
    ),
    ("labels", "neither clicks nor ratings", text("log.csv", clicks), {}),
    ("bad lines", "a field missing", lines(lambda n, line: line.rsplit(b",", 1)[0]), {}),
    ("bad lines", "a field too many", lines(lambda n, line: line + b",x"), {}),
    ("bad lines", "a quote never closed", lines(lambda n, line: b'"' + line), {}),
    ("bad lines", "not UTF-8", lines(lambda n, line: b"Jos\xe9" + line), {}),
    ("bad lines", "a zero byte in the user id (kept)", lines(lambda n, line: b"\x00" + line), {}),
    ("bad lines", "the gzip file is cut", cut, {}),
    ("bad values", "times nan, inf, yesterday, 12:30", value("timestamp", "nan", "inf", "yesterday", "12:30"), {}),
    ("bad values", "some times in milliseconds", value("timestamp", "1700000000000"), {}),
    ("bad values", "clicks 2, maybe, nothing", value("click", "2", "maybe", ""), {}),
    ("bad values", "users missing or blank", value("user_id", "", "  "), {}),
    ("bad values", "users 007 and 7, 2^63 (kept)", value("user_id", "007", "7", str(2**63)), {}),
    ("bad values", "users of 10,000 characters (kept)", value("user_id", "x" * 10_000), {}),
    ("bad values", "items that no list has", value("item_id", "0", "ghost", "1e1"), {}),
    ("bad values", "rows twice", text("log.csv", lambda rows: pl.concat([rows, rows[:20]])), {}),
    ("bad values", "more bad rows than allowed", value("click", "2"), {"max_bad_share": 0.005}),
]


def outcome(write: Callable[[Path, pl.DataFrame], str], settings: dict) -> tuple[str, ...]:
    """Rows read, kept and set aside, rows drawn, and what came out."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "in"
        folder.mkdir()
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        (folder / "one.png").write_bytes(file.getvalue())
        ids = [f"{item:02}" for item in range(ITEMS)]
        items = pl.DataFrame({"item_id": ids, "image": "one.png", "category": [f"c{n % 5}" for n in range(ITEMS)]})
        items.write_csv(folder / "items.csv")
        place = str(folder / write(folder, log()))
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                out = prepare(
                    Settings(
                        impressions=place,
                        items=str(folder / "items.csv"),
                        images=str(folder),
                        out=Path(work) / "out",
                        **settings,
                    )
                )
        except UserError as error:
            said = str(error).replace(str(folder) + "/", "").replace("\n", " ").replace("|", r"\|")
            return "", "", "", "", f"stopped: {said if len(said) < 230 else said[:230] + ' ...'}"
        info = open_dataset(out).info
        counts, drawn = info["counts"], info["counts"].get("sampled", 0)
        kept = counts["impressions"] - drawn
        assert kept + counts["rows_set_aside"] == counts["rows_read"], "rows were lost"
        aside = ", ".join(f"{reason}: {count}" for reason, count in info["set_aside"].items())
        clicked = f"{counts['clicks']:,} clicks, time in {info['time_unit']}"
        number = (counts["rows_read"], kept, counts["rows_set_aside"], drawn)
        return *(f"{one:,}" for one in number), "; ".join(filter(None, (aside, clicked)))


def main() -> None:
    print("| | log | rows read | kept | set aside | drawn | what came out |\n|---|---|---|---|---|---|---|")
    for group, name, write, settings in CASES:
        asked = f" (`{json.dumps(settings)[1:-1]}`)".replace('"', "") if settings else ""
        print(f"| {group} | {name}{asked} | {' | '.join(outcome(write, settings))} |", flush=True)


if __name__ == "__main__":
    main()
