"""How fast prepare is and what it takes, against the same tables written by hand in polars.

python tests/benchmarks/prepare.py --work /tmp/prepare --out results/benchmarks/prepare.json

Makes logs of 2 and of 20 million impressions in Parquet (integer ids, times in seconds, 1 in 1,000 rows broken), then
runs prepare and the polars program on each, every run in a process of its own whose peak memory is measured with that
of its children. The clock starts once a side's libraries are loaded; the seconds of the processor count that, too. The
three tables of both sides are compared cell by cell. Nothing is enforced.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = 100_000
GAP, SLOTS, VALID, TEST = 1800, 10, 0.8, 0.9
CHUNK = 1_000_000


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
    command = [sys.executable, __file__, "--work", str(work), "--side", side, "--rows", str(rows), "--memory", memory]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for logs and datasets (about 6 GB)")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--sizes", default="2000000,20000000")
    parser.add_argument("--memory", default="2.5GB", help="what DuckDB takes before it spills")
    parser.add_argument("--side", choices=["ours", "hand"], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.side:
        run_side(settings.side, settings.work, settings.rows, settings.memory)
        return
    settings.work.mkdir(parents=True, exist_ok=True)
    sizes, figures = [int(size) for size in settings.sizes.split(",")], {}
    for rows in sizes:
        if not (log := settings.work / f"log-{rows}.parquet").exists():
            make_log(log, rows)
        sides = {side: measured(side, settings.work, rows, settings.memory) for side in ("hand", "ours")}
        equal = same_tables(settings.work, rows)
        speed, thrift = (round(sides["hand"][kind] / sides["ours"][kind], 2) for kind in ("seconds", "cpu_seconds"))
        figures[str(rows)] = sides | {"speed_against_polars": speed, "by_cpu_seconds": thrift, "equal": equal}
        print(f"{rows:,} rows: {figures[str(rows)]}", flush=True)
    small, large = figures[str(sizes[0])], figures[str(sizes[-1])]
    growth = large["ours"]["seconds"] / small["ours"]["seconds"] / (sizes[-1] / sizes[0])
    print(f"time per row, {sizes[-1]:,} against {sizes[0]:,}: {growth:.2f}")
    if settings.out:
        from data_tools.common.files import write_json
        from data_tools.common.provenance import made_by

        settings.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"figures": figures, "time_per_row_growth": round(growth, 2), "memory_setting": settings.memory}
        write_json(settings.out, record | made_by())


if __name__ == "__main__":
    main()
