"""How fast prepare is and what it takes, against the same tables written by hand in polars.

    python tests/benchmarks/prepare.py --work /tmp/prepare --out results/benchmarks/prepare.json

Makes logs of 2 and of 20 million impressions in Parquet (integer ids, times in seconds, 1 in 1,000 rows broken), then
runs prepare and the polars program on each, every run in a process of its own whose peak memory is measured. The
clock starts once a side's libraries are loaded; the seconds of the processor count that, too. The three tables of both
sides are compared cell by cell. Nothing is enforced.

    python tests/benchmarks/prepare.py --work /tmp/prepare --sizes [20000000] --page_views true --memory 4GB

makes logs of page views of eight impressions each instead, with a request_id and all ids as text, of 300,000 items and
a user for 40 rows, and runs prepare alone: it has to end within the stated memory, whatever the size.
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
from data_tools.common.system import peak_memory

ITEMS = 100_000
LISTED, SHOWN = 300_000, 8  # items, and impressions a page view, of the other kind of log
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
    page_views : bool
        Logs of page views with ids as text, on which prepare runs alone.
    side : {"ours", "hand"}, optional
        Set by the program for its own processes.
    out : str, optional
        File for the figures.
    """

    work: str
    sizes: list[int] = field(default_factory=lambda: [2_000_000, 20_000_000])
    memory: str = "2.5GB"
    page_views: bool = False
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


def make_page_views(path: Path, rows: int) -> None:
    """A log of page views of eight impressions in time order: text ids, a request_id, a user for 40 rows."""
    random = np.random.default_rng(rows)
    users, views, writer = max(1, rows // 40), CHUNK // SHOWN, None
    for start in range(0, rows // SHOWN, views):
        n = min(views, rows // SHOWN - start)
        seen = np.repeat(np.arange(n), SHOWN)
        user, view = (users * random.random(n) ** 2).astype(np.int64)[seen], (start + np.arange(n))[seen]
        item = (LISTED * random.random(n * SHOWN) ** 3).astype(np.int64)
        frame = pl.DataFrame({"u": user, "i": item, "v": view}).select(
            user_id=pl.format("user-{}", pl.col("u").cast(pl.String).str.zfill(9)),
            item_id=pl.format("item-{}", pl.col("i").cast(pl.String).str.zfill(7)),
            timestamp=1_600_000_000 + pl.col("v"),
            click=pl.Series((random.random(n * SHOWN) < 0.12).astype(np.int64)),
            request_id=pl.format("request-{}", pl.col("v").hash(0)),
        )
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def prepare_page_views(work: Path, rows: int, memory: str) -> None:
    from data_tools.dataset.rules import Rules
    from data_tools.dataset.write import write_dataset

    ids = pl.select(pl.format("item-{}", pl.int_range(LISTED).cast(pl.String).str.zfill(7)).alias("item_id"))
    items = ids.with_columns(image=pl.lit(None, pl.String))
    write_dataset(work / f"views-{rows}", work / f"views-{rows}.parquet", items, None, rules=Rules(memory=memory))


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
    if side != "hand":
        import data_tools.dataset.write  # noqa: F401  so that neither side's clock counts the loading of its libraries
    started = time.perf_counter()
    if side == "views":
        prepare_page_views(work, rows, memory)
    else:
        ours(work, rows, memory) if side == "ours" else by_hand(work, rows)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "peak_gib": round(peak_memory()["process"] / 1024, 2),
            }
        )
    )


def measure_page_views(settings: Settings, work: Path) -> None:
    """Seconds and peak memory of prepare on logs of page views, with the memory that was stated beside it."""
    figures = {}
    for rows in settings.sizes:
        if not (log := work / f"views-{rows}.parquet").exists():
            make_page_views(log, rows)
        figures[rows] = measured("views", work, rows, settings.memory) | {"log_mb": round(log.stat().st_size / 1e6)}
        print(rows, figures[rows], flush=True)
    from report import Ratio, finish

    stated = settings.memory.upper()
    gib = float(stated.removesuffix("GB")) * 1e9 / 2**30 if stated.endswith("GB") else None
    ratios = [
        Ratio(f"peak GiB, {rows:,} rows", one["peak_gib"], gib, "stated memory") for rows, one in figures.items() if gib
    ]
    finish(settings, {"figures": figures}, ratios)


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
    work.mkdir(parents=True, exist_ok=True)
    if settings.page_views:
        return measure_page_views(settings, work)
    figures = {}
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
