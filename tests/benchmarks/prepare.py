"""How fast prepare is and what it takes, against the same tables written by hand in polars.

    python tests/benchmarks/prepare.py --work /tmp/prepare --out results/benchmarks/prepare.json

Makes logs of 2 and of 20 million impressions in Parquet (integer ids, times in seconds, 1 in 1,000 rows broken), then
runs prepare and the polars program on each, every run in a process of its own whose peak memory is measured with that
of its children. The clock starts once a side's libraries are loaded; the seconds of the processor count that, too. The
three tables of both sides are compared cell by cell. Nothing is enforced.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.cli import parse_settings, run_command

ITEMS = 100_000
GAP, SLOTS, VALID, TEST = 1800, 10, 0.8, 0.9
CHUNK = 1_000_000
BY_HAND = f"polars {pl.__version__} by hand"


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    work : str
        Folder for logs and datasets (about 6 GB).
    sizes : list of int
        Rows of each log, the fewest first.
    memory : str
        What DuckDB takes before it spills.
    side : {"ours", "hand"}, optional
        Set by the program for its own processes.
    out : str, optional
        File for the figures.
    """

    work: str
    sizes: list[int] = field(default_factory=lambda: [2_000_000, 20_000_000])
    memory: str = "2.5GB"
    side: str | None = None
    out: str | None = None


def make_log(path: Path, rows: int) -> None:
    """A log in time order with a long tail of items and of users (one for 100 rows), some rows of it broken."""
    random = np.random.default_rng(rows)
    users, writer = rows // 100, None
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        frame = pa.table(
            {
                "user_id": (users * random.random(n) ** 2).astype(np.int64) * 7919 + 10**9,
                "item_id": (ITEMS * 1.001 * random.random(n) ** 3).astype(np.int64),
                "timestamp": 1_600_000_000 + start + np.sort(random.integers(0, CHUNK, n)),
                "click": (random.random(n) < 0.2).astype(np.int64),
            }
        )
        writer = writer or pq.ParquetWriter(path, frame.schema)
        writer.write_table(frame)
    writer.close()


def ours(work: Path, rows: int, memory: str) -> None:
    from data_tools.dataset.rules import Rules
    from data_tools.dataset.write import write_dataset

    items = pl.DataFrame({"item_id": range(ITEMS), "image": pl.Series([None] * ITEMS, dtype=pl.String)})
    rules = Rules(page_gap=GAP, page_slots=SLOTS, valid_from=VALID, test_from=TEST, memory=memory)
    write_dataset(work / f"ours-{rows}", work / f"log-{rows}.parquet", items, None, rules=rules)


def by_hand(work: Path, rows: int) -> None:
    """The same result for this one log: no option, no other form of input, nothing set aside but counted."""
    out = work / f"hand-{rows}"
    out.mkdir()
    items = pl.LazyFrame({"item_id": range(ITEMS)}).with_row_index("item").with_columns(pl.col("item").cast(pl.Int32))
    log = pl.scan_parquet(work / f"log-{rows}.parquet").with_row_index("row")
    known = log.join(items, on="item_id", how="left", maintain_order="left")
    whole = (pl.col("user_id", "timestamp").is_not_null() & pl.col("click").is_in([0, 1])).alias("whole")
    keys = ["user_id", "item_id", "timestamp"]
    good = known.filter(pl.col("item").is_not_null(), pl.all_horizontal(whole)).unique(
        keys, keep="first", maintain_order=True
    )
    users = good.group_by("user_id").agg(pl.col("row").min()).sort("row").with_row_index("user")
    users = users.select("user_id", pl.col("user").cast(pl.Int32))
    good = good.join(users, on="user_id").sort("user", "timestamp", "row").collect(engine="streaming").lazy()
    first = pl.col("user") != pl.col("user").shift().fill_null(-1)
    pause = pl.col("timestamp") - pl.col("timestamp").shift()
    ordered = good.with_columns(
        place=pl.int_range(pl.len()),
        sits=first | (pause > GAP),
        moment=first | (pause > 0),
        clicked=pl.col("click").cum_sum() - pl.col("click"),
    )
    ordered = ordered.with_columns(
        at_start=pl.when(first).then("clicked").forward_fill(),
        at_moment=pl.when("moment").then("clicked").forward_fill(),
        sat=pl.when("sits").then("place").forward_fill(),
    )
    slot = pl.col("place") - pl.col("sat")
    ordered = ordered.with_columns(
        clicks_before=(pl.col("at_moment") - pl.col("at_start")).cast(pl.Int32), heads=slot % SLOTS == 0
    )
    ordered = ordered.with_columns(view=pl.col("heads").cum_sum() - 1)
    kept = ["row", "user", "item", "user_id", "item_id", "timestamp", "click", "clicks_before", "view"]
    frame = ordered.select(*kept, "heads").collect(engine="streaming")
    views = frame.lazy().filter("heads").select("view", "row", page_time="timestamp").sort("page_time", "row")
    views = views.with_row_index("request").select("view", "page_time", pl.col("request").cast(pl.Int64))
    times = frame["timestamp"].sort()
    valid, test = (times[int(share * 100) * len(times) // 100] for share in (VALID, TEST))
    split = pl.when(pl.col("page_time") >= test).then(pl.lit("test"))
    split = split.when(pl.col("page_time") >= valid).then(pl.lit("valid")).otherwise(pl.lit("train"))
    impressions = frame.lazy().drop("heads").join(views, on="view").with_columns(split=split)
    columns = ["user", "item", "user_id", "item_id", "timestamp", "click", "request", "clicks_before", "split"]
    impressions = impressions.sort("timestamp", "request", "row").with_columns(pl.col("click").cast(pl.Int8))
    impressions.select(columns).sink_parquet(out / "impressions.parquet")
    clicks = frame.lazy().filter(pl.col("click") == 1).group_by("user", maintain_order=True)
    listed = clicks.agg(items="item", timestamps="timestamp")
    joined = users.join(listed, on="user", how="left").with_columns(pl.col("items", "timestamps").fill_null([]))
    joined.sort("user").select("user", "user_id", "items", "timestamps").sink_parquet(out / "clicks.parquet")
    seen = frame.lazy().group_by("item").agg(first_seen=pl.col("timestamp").min())
    items.join(seen, on="item", how="left").sort("item").sink_parquet(out / "items.parquet")


def measured(side: str, work: Path, rows: int, memory: str) -> dict[str, float]:
    """Seconds, of the clock and of the processor, and peak memory (GiB) of one side in a process of its own."""
    shutil.rmtree(work / f"{side}-{rows}", ignore_errors=True)
    flags = {"work": work, "side": side, "sizes": [rows], "memory": memory}
    command = [sys.executable, __file__, *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, work: Path, rows: int, memory: str) -> None:
    if side == "ours":
        import data_tools.dataset.write  # noqa: F401  so that neither side's clock counts the loading of its libraries
    started = time.perf_counter()
    ours(work, rows, memory) if side == "ours" else by_hand(work, rows)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    peak = max(one.ru_maxrss for one in used) / 2**20
    print(json.dumps({"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_gib": round(peak, 2)}))


def same_tables(work: Path, rows: int) -> bool:
    """Whether both sides wrote the same cells; compared a slice at a time."""
    for name, keys in (("impressions", None), ("clicks", None), ("items", ["item", "item_id", "first_seen"])):
        sides = [pl.scan_parquet(work / f"{side}-{rows}" / f"{name}.parquet") for side in ("ours", "hand")]
        sides = [side.select(keys) if keys else side for side in sides]
        counts = [side.select(pl.len()).collect().item() for side in sides]
        if counts[0] != counts[1] or sides[0].collect_schema().names() != sides[1].collect_schema().names():
            return False
        for start in range(0, counts[0], 2_000_000):
            ours, hand = (side.slice(start, 2_000_000).collect() for side in sides)
            if not ours.equals(hand):
                return False
    return True


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    work = Path(settings.work)
    if settings.side:
        run_side(settings.side, work, settings.sizes[0], settings.memory)
        return
    figures = {}
    work.mkdir(parents=True, exist_ok=True)
    for rows in settings.sizes:
        if not (log := work / f"log-{rows}.parquet").exists():
            make_log(log, rows)
        sides = {side: measured(side, work, rows, settings.memory) for side in ("hand", "ours")}
        figures[rows] = sides | {"equal": same_tables(work, rows)}
    from report import Ratio, finish  # here, since it loads torch: a process's peak begins with that of its parent

    ratios = [
        Ratio(f"{unit.replace('_', ' ')}, {rows:,} rows", ours, sides["hand"][unit], BY_HAND)
        for rows, sides in figures.items()
        for unit, ours in sides["ours"].items()
    ]
    each = [figures[rows]["ours"]["seconds"] / rows * 1e6 for rows in settings.sizes]
    if len(each) > 1:
        ratios.append(Ratio("seconds a million rows, the most rows", each[-1], each[0], "the fewest rows"))
    finish(settings, {"figures": figures}, ratios)


if __name__ == "__main__":
    run_command(main)
