"""Write a dataset folder from a log, an item list and images: all checked, the unusable counted and set aside."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
import numpy as np
import polars as pl
from rich.console import Console

from data_tools.common import files
from data_tools.common.cli import UserError
from data_tools.common.parquet import read_parquet, scan_parquet
from data_tools.dataset.schema import SCHEMA_VERSION, SPLITS
from data_tools.log import histories, labels
from data_tools.log import values as behaviour_log
from data_tools.log.engines import Engine, engine, join_parts
from data_tools.reading import inputs
from data_tools.reading.columns import LOG_COLUMNS, LOG_OPTIONAL, resolve_columns
from data_tools.reading.image_places import place_images
from data_tools.reading.images import copy_images
from data_tools.reading.item_list import unique_items

console = Console(stderr=True)
CLICKS_AT_ONCE = 50_000_000  # that are gathered into lists of users, which no engine spills


@dataclass(kw_only=True)
class Rules:
    """How a log is read, how impressions become page views and splits, and how much unusable input is borne.

    Attributes:
        time_unit: Of times given as numbers: seconds or milliseconds since 1970; "auto" tells them by their size; with
            "order" the numbers only say what came first, and without a column for them the order of the log does.
        rating_threshold: For logs with a column rating in place of click: clicked from this rating on; "own_mean":
            clicked above the mean of the user's own ratings.
        unclicked: For logs of clicks alone: how many items that the user never clicked are drawn for each click. They
            make up its page view and are marked (column sampled; dataset.json and reports say so).
        unclicked_from: Where these are drawn from: of all items clicked by then each alike (uniform), in proportion to
            their clicks so far (popularity), or each alike of the clicked item's category (category).
        seed: Of these draws.
        page_gap: Impressions of a user at most this many seconds apart share a page view where the log has no
            request_id; with time_unit order any pause will do.
        page_slots: Most impressions in a page view made so.
        valid_from: Fraction of the impressions, in time order, at which the validation split starts.
        test_from: Fraction at which the test split starts.
        new_item_share: Share of the items, drawn at random, to treat as launched when the validation split starts:
            what earlier page views show of them is left out and counted. For logs whose catalogue hardly grows.
        max_bad_share: Largest share of the rows of the log, or of the lines of the item list, that may be set aside.
        max_bad_image_share: Largest share of the items whose image may be missing or unreadable.
        engine: What works through the log: duckdb, here; or spark, for logs that outgrow this machine (Parquet best;
            text is read here first). Both give the same tables, row for row.
        memory: What the engine takes; DuckDB then spills to disk, beside the output.
    """

    time_unit: Literal["auto", "seconds", "milliseconds", "order"] = "auto"
    rating_threshold: float | Literal["own_mean"] | None = None
    unclicked: int = 0
    unclicked_from: Literal["uniform", "popularity", "category"] = "uniform"
    seed: int = 0
    page_gap: int = 1800
    page_slots: int = 10
    valid_from: float = 0.8
    test_from: float = 0.9
    new_item_share: float = 0.0
    max_bad_share: float = 0.05
    max_bad_image_share: float = 0.05
    engine: Literal["duckdb", "spark"] = "duckdb"
    memory: str = "4GB"

    def __post_init__(self) -> None:
        if not 0 < self.valid_from < self.test_from < 1:
            raise UserError(f"0 < valid_from < test_from < 1 is expected, not {self.valid_from} and {self.test_from}")
        if not 0 <= self.new_item_share < 1:
            raise UserError(f"0 <= new_item_share < 1 is expected, not {self.new_item_share}")
        if self.page_gap < 0 or self.page_slots < 1:
            raise UserError(f"page_gap >= 0 and page_slots >= 1 are expected, not {self.page_gap}, {self.page_slots}")
        if self.unclicked < 0:
            raise UserError(f"unclicked >= 0 is expected, not {self.unclicked}")
        if isinstance(self.rating_threshold, float) and not math.isfinite(self.rating_threshold):
            raise UserError(f"rating_threshold is {self.rating_threshold}; a number is expected")


@dataclass(frozen=True)
class Log:
    """Where a log is and which column is which.

    Attributes
    ----------
    place : a file, a folder or a glob of .csv, .tsv, .jsonl (also .gz, .zst, .bz2) or .parquet
    columns : our names to those of the log, where they differ
    form : of text files whose name does not tell it
    """

    place: str | Path
    columns: Mapping[str, str]
    form: inputs.Form | None = None


@dataclass(frozen=True)
class _Read:
    """A log that was read and judged."""

    good: ir.Table  # row, user, item, timestamp, click and what else is known
    users: ir.Table  # user, user_id
    id_kind: str  # of the item ids of the log
    rows: int
    aside: dict[str, int]
    unit: str
    unclicked: dict[str, Any] | None


def _stop_above(share: float, bad: dict[str, int], total: int, what: str, setting: str) -> None:
    if sum(bad.values()) > share * total:
        counts = "".join(f"\n  {reason}: {count:,}" for reason, count in bad.items())
        raise UserError(
            f"{sum(bad.values()):,} of {total:,} {what} are unusable, above the share of {share} that is borne:{counts}"
            f"\n  Nothing was written. Mend the input, or bear more with --{setting}."
        )


def _resolve(found: list[str], log: Log, rules: Rules) -> dict[str, str]:
    """Our names to those of the log, by what the rules ask for."""
    rated = rules.rating_threshold is not None
    needed = [name for name in LOG_COLUMNS if name not in ("timestamp", "click")]
    needed += ["timestamp"] if rules.time_unit != "order" else []
    needed += ["rating"] if rated else [] if rules.unclicked else ["click"]
    optional = [name for name in (*LOG_COLUMNS, *LOG_OPTIONAL) if name not in needed]
    try:
        columns = resolve_columns(log.columns, found, needed, optional, str(log.place))
    except UserError as error:
        hints = {
            "'click'": "\n  Ratings instead: --rating-threshold 4. Clicks alone: --unclicked 4 draws unclicked items.",
            "'timestamp'": "\n  No times at all: --time-unit order takes the order of the rows.",
        }
        hint = next((text for name, text in hints.items() if f"has no column {name};" in str(error)), "")
        raise UserError(f"{error}{hint}") from None
    columns.pop("click" if rated else "rating", None)
    return columns


def _unit(run: Engine, sound: ir.Table, rules: Rules, where: str) -> str:
    """The unit that most of the times have."""
    if rules.time_unit != "auto":
        return rules.time_unit
    units = sound.group_by(unit=behaviour_log.time_unit(sound.timestamp)).agg(rows=sound.count())
    found = run.rows(units).sort("rows", "unit", descending=True)
    if not len(found):
        return "seconds"
    if (unit := found["unit"][0]) not in ("seconds", "milliseconds"):
        raise UserError(f"the times of {where} look like {unit}; give seconds or milliseconds, or say --time-unit")
    return unit


def _read_log(run: Engine, log: Log, catalogue: pl.DataFrame, rules: Rules, scratch: Path, work: Path) -> _Read:
    """Read a log, judge its rows, put the unusable aside (``set_aside.parquet``, ``set_aside_lines.parquet``)."""
    wanted = {*LOG_COLUMNS, *LOG_OPTIONAL, *log.columns.values()}
    found = inputs.as_parquet(
        log.place, work, "log", expected=wanted, form=log.form, wanted=wanted, memory=rules.memory
    )
    where, total, broken = str(log.place), found.rows, found.broken
    columns = {ours: found.columns[name] for ours, name in _resolve(list(found.columns), log, rules).items()}
    table = run.read(found.parts, found.columns.values())
    keys = catalogue.select("item", *({"category"} & set(catalogue.columns)), key=pl.col("item_id").cast(pl.String))
    known = run.frame("catalogue", keys)
    judged = behaviour_log.judge(table, columns, known.select("item", "key"), rules.time_unit, where)
    judged = run.keep("judged", judged)

    sound = judged.filter(judged.fault.isnull()).drop("fault")
    unit = _unit(run, sound, rules, where)
    faulty = judged.filter(judged.fault.notnull()).select("row", reason="fault")
    if rules.time_unit == "auto":
        other = behaviour_log.time_unit(sound.timestamp) != unit
        faulty = faulty.union(sound.filter(other).select("row", reason=ibis.literal("timestamp in another unit")))
        sound = sound.filter(~other)
    users = run.keep("users", histories.numbered_users(sound)).rename(user="number")
    again = run.keep("again", behaviour_log.repeated(sound))
    bad = run.keep("bad", faulty.union(again.select("row", reason=ibis.literal("duplicate row"))))

    aside = dict(run.rows(behaviour_log.count_reasons(bad)).iter_rows())
    aside |= dict(Counter(broken["reason"].to_list()).most_common())
    _stop_above(rules.max_bad_share, aside, total, f"rows of {where}", "max_bad_share")
    if total == sum(aside.values()):
        raise UserError(f"{where} holds no usable impression among its {total} rows")
    run.write(behaviour_log.set_aside(table, bad), scratch / "set_aside.parquet")
    broken.write_parquet(scratch / "set_aside_lines.parquet")

    good = sound.anti_join(again, "row").join(users, "user_id").drop("user_id")
    if "rating" in columns:
        good = run.keep("rated", labels.from_ratings(good, rules.rating_threshold))
    good, unclicked = _with_unclicked(run, good, known, rules, where)
    kind = str(table[columns["item_id"]].type().copy(nullable=True))
    return _Read(good, users, kind, total, aside, unit, unclicked)


def _with_unclicked(
    run: Engine, good: ir.Table, catalogue: ir.Table, rules: Rules, where: str
) -> tuple[ir.Table, dict[str, Any] | None]:
    if not rules.unclicked:
        return good, None
    if "click" in good.columns:
        if run.rows(good.agg(shown=(good.click == 0).sum()))["shown"][0]:
            raise UserError(f"{where} has unclicked impressions itself; leave out --unclicked")
    else:
        good = good.mutate(click=ibis.literal(1, "int8"))
    if rules.unclicked_from == "category" and "category" not in catalogue.columns:
        raise UserError("--unclicked-from category needs a column category in the item list")
    rows, lacking = labels.sample_unclicked(run, good, catalogue, rules.unclicked, rules.unclicked_from, rules.seed)
    how = {"per_click": rules.unclicked, "from": rules.unclicked_from, "seed": rules.seed, "not_found": lacking}
    return run.keep("with_unclicked", rows), how


def _write_tables(
    run: Engine, read: _Read, catalogue: pl.DataFrame, rules: Rules, folder: Path, work: Path
) -> dict[str, Any]:
    """Write the three tables; return what ``dataset.json`` says of them."""
    gap = None if read.unit == "order" else rules.page_gap * (1000 if read.unit == "milliseconds" else 1)
    timeline = run.keep("timeline", histories.timelines(read.good, gap, rules.page_slots))
    views = run.keep("views", histories.page_views(timeline))
    starts = histories.split_times(timeline, rules.valid_from, rules.test_from, run.rows)
    viewed, users, late_rows = timeline.join(views, histories.page_key(timeline)), read.users, 0
    backwards = timeline.agg(n=timeline.backwards.sum())
    if rules.new_item_share:
        late = run.frame("late", _late_items(len(catalogue), rules.new_item_share))
        kept = histories.without_late(viewed, late, starts["valid_start"]).drop("clicks_before", "backwards")
        fewer = run.keep("fewer_users", histories.numbered_users(kept, "user"))
        users = run.keep("users_left", users.join(fewer, "user").select("user_id", user="number"))
        kept = run.keep("kept", kept.join(fewer, "user").drop("user").rename(user="number"))
        viewed = timeline = histories.clicks_before(kept)
        late_rows = read.rows - sum(read.aside.values())

    final = histories.splits(viewed, **starts).join(users, "user")
    ids = run.frame("item_ids", catalogue.select("item", item_id=pl.col("item_id").cast(pl.String)))
    final = final.join(ids.mutate(item_id=ids.item_id.cast(read.id_kind)), "item")
    order = ["timestamp", "request", *(["position"] if "position" in final.columns else []), "row"]
    known = [name for name in ("scene", "position", "conversion", "oracle", "sampled") if name in final.columns]
    ours = ["user", "item", "user_id", "item_id", "timestamp", "click", "request", "clicks_before", "split", *known]
    run.write(final.order_by(order).select(ours), folder / "impressions.parquet")

    numbers = {
        "users": users.agg(n=users.count()),
        "requests": viewed.agg(n=viewed.request.nunique()) if rules.new_item_share else views.agg(n=views.count()),
        "time_backwards": backwards,
    }
    counts = {name: int(run.rows(number)["n"][0]) for name, number in numbers.items()}
    counts |= {"items": len(catalogue), "items_with_image": catalogue["image"].count()}
    described = _describe(folder / "impressions.parquet", starts, counts)
    described["counts"]["rows_of_late_items"] = max(0, late_rows - described["counts"]["impressions"])
    described["time_unit"] = read.unit
    _write_clicks(run, timeline, users, described["counts"], folder / "clicks.parquet", work)
    _write_items(run, catalogue, read.unit, folder)
    return described


def _write_items(run: Engine, catalogue: pl.DataFrame, unit: str, folder: Path) -> None:
    """The catalogue with ``first_seen``: as given, else the time of the first impression that is not drawn."""
    shown = scan_parquet(folder / "impressions.parquet")
    if "sampled" in shown.collect_schema():
        shown = shown.filter(~pl.col("sampled"))
    seen = shown.group_by("item").agg(seen=pl.col("timestamp").min()).collect(engine="streaming")
    items = catalogue.join(seen, on="item", how="left", maintain_order="left")
    given = pl.lit(None, pl.Int64)
    if "first_seen" in catalogue.columns:
        times = run.frame("launches", catalogue.select("item", "first_seen"))
        read = run.rows(times.select("item", given=behaviour_log.read_time(times.first_seen, unit)))
        items, given = items.join(read, on="item", how="left", maintain_order="left"), pl.col("given")
    items = items.with_columns(first_seen=pl.coalesce(given, "seen"))
    items.drop("seen", "given", strict=False).write_parquet(folder / "items.parquet")


def _write_clicks(
    run: Engine, timeline: ir.Table, users: ir.Table, counts: dict[str, int], path: Path, work: Path
) -> None:
    """The clicks of each user, some users at a time."""
    parts = []
    step = max(1, math.ceil(counts["users"] * CLICKS_AT_ONCE / max(counts["clicks"], CLICKS_AT_ONCE)))
    for start in range(0, counts["users"], step):
        some = histories.user_clicks(
            timeline.filter(timeline.user.between(start, start + step - 1)),
            users.filter(users.user.between(start, start + step - 1)),
        )
        parts.append(work / f"clicks-{start:010d}.parquet")
        run.write(some.order_by("user"), parts[-1])
    join_parts(parts, path)


def _late_items(items: int, share: float) -> pl.DataFrame:
    late = sorted(np.random.default_rng(0).choice(items, round(share * items), replace=False).tolist())
    return pl.DataFrame({"item": pl.Series(late, dtype=pl.Int32)})


def _describe(impressions: Path, starts: dict[str, int], counts: dict[str, int]) -> dict[str, Any]:
    """Counts of the impressions that were written."""
    written = scan_parquet(impressions)
    time, sampled = pl.col("timestamp"), "sampled" in written.collect_schema()
    facts = written.select(
        impressions=pl.len(),
        clicks=pl.col("click").cast(pl.Int64).sum(),
        empty_history=(pl.col("clicks_before") == 0).sum(),
        **({"sampled": pl.col("sampled").sum()} if sampled else {}),
        first=time.min(),
        last=time.max(),
        **{split: (pl.col("split") == split).sum() for split in SPLITS},
    )
    row = facts.collect(engine="streaming").row(0, named=True)
    return {
        "counts": counts | {name: value for name, value in row.items() if name not in ("first", "last", *SPLITS)},
        "time_range": [row["first"], row["last"]],
        "splits": starts | {split: row[split] for split in SPLITS},
    }


def _page_views(columns: list[str], read: _Read, rules: Rules) -> dict[str, Any]:
    if "request_id" in columns:
        return {"from": "a click and the items drawn for it" if read.unclicked else "request_id"}
    gap = None if read.unit == "order" else rules.page_gap
    return {"from": "gap", "gap": gap, "slots": rules.page_slots}


def write_dataset(
    out: str | Path,
    impressions: str | Path | Log,
    items: pl.DataFrame,
    images: str | Path | None,
    rules: Rules | None = None,
    columns: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
    broken_items: pl.DataFrame | None = None,
) -> Path:
    """Check a log, an item list and their images, and write the dataset folder of :mod:`data_tools.dataset.schema`.

    Parameters
    ----------
    out : the folder to make; it appears whole or not at all
    impressions : the log, a file, a folder or a glob, with user_id, item_id, timestamp, click (or as ``rules`` say
        otherwise) and, where known, request_id (one page view of a user), scene, position, conversion (0, 1 or null)
        and oracle (true click probability)
    items : item_id, image (path relative to ``images``, or null) and, where known, title, category, first_seen; other
        columns are carried along. The dense index of an item is its row here, once repeated ids are set aside
    images : the folder of images, a tar, or a folder or a glob of tars; the usable ones are copied. None for none
    rules : how the log is read, page views, splits and limits
    columns : our names to those of the log, where they differ
    info : further keys of ``dataset.json``, such as source and licence
    broken_items : lines of the item list that are no item

    Returns
    -------
    ``out``

    Raises
    ------
    UserError
        If ``out`` exists, the log cannot be read, or more than the borne share of rows or images is unusable.
    """
    out, rules = Path(out), rules or Rules()
    log = impressions if isinstance(impressions, Log) else Log(impressions, columns or {})
    with (
        files.whole_folder(out) as scratch,
        tempfile.TemporaryDirectory(dir=scratch, prefix=".in-") as inside,
        engine(rules.engine, scratch, rules.memory) as run,
    ):
        work = Path(inside)
        items, source = place_images(items, images, work)
        catalogue, items_aside = unique_items(items)
        with console.status(f"reading {log.place}"):
            read = _read_log(run, log, catalogue, rules, scratch, work)
        items_aside.write_parquet(scratch / "set_aside_items.parquet")
        bad_items = dict(Counter(items_aside["reason"].to_list()).most_common())
        if broken_items is not None and len(broken_items):
            lines = dict(Counter(broken_items["reason"].to_list()).most_common())
            _stop_above(rules.max_bad_share, lines, len(items) + len(broken_items), "items", "max_bad_share")
            aside_lines = scratch / "set_aside_lines.parquet"
            pl.concat([read_parquet(aside_lines), broken_items]).write_parquet(aside_lines)
            bad_items |= lines

        copied, faults = copy_images(catalogue["image"].to_list(), source, scratch / "images")
        bad_images = dict(Counter(filter(None, faults)).most_common())
        _stop_above(rules.max_bad_image_share, bad_images, len(catalogue), f"images in {images}", "max_bad_image_share")
        paths = pl.Series("image", [name and f"images/{name}" for name in copied], pl.String)

        with console.status("histories, page views and splits"):
            described = _write_tables(run, read, catalogue.with_columns(paths), rules, scratch, work)
        described["counts"] |= {"rows_read": read.rows, "rows_set_aside": sum(read.aside.values())}
        record = {
            "schema_version": SCHEMA_VERSION,
            **described,
            "set_aside": read.aside,
            "set_aside_items": bad_items,
            "bad_images": bad_images,
            "page_views": _page_views(read.good.columns, read, rules),
            "labels": {"rating_threshold": rules.rating_threshold, "unclicked_drawn": read.unclicked},
            "new_item_share": rules.new_item_share,
            **(info or {}),
            "fingerprint": files.digest(scratch / f"{name}.parquet" for name in ("items", "impressions", "clicks")),
        }
        files.write_json(scratch / "dataset.json", record)
    return out
