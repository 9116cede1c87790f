"""The three tables of a dataset folder, written from a log that was read and judged, and what they count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import polars as pl

from data_tools.common.parquet import scan_parquet
from data_tools.dataset.doubts import doubts
from data_tools.dataset.read_log import ReadLog
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import SPLITS
from data_tools.log import histories
from data_tools.log.engines import Engine, join_parts
from data_tools.log.labels import sample_unclicked
from data_tools.log.time_forms import time_form
from data_tools.log.times import COUNTS, date_text, timed

CLICKS_AT_ONCE = 50_000_000  # gathered into lists per user, which no engine spills


def write_tables(
    run: Engine, read: ReadLog, catalogue: pl.DataFrame, rules: Rules, *, folder: Path, work: Path
) -> dict[str, Any]:
    """Write ``impressions.parquet``, ``clicks.parquet`` and ``items.parquet``; return what ``dataset.json`` says.

    Parameters
    ----------
    run : Engine
        What works through the log.
    read : ReadLog
        The log.
    catalogue : polars.DataFrame
        item (int32), item_id, image (path in ``folder`` or null) and what else is known of the items.
    rules : Rules
        Page views and splits.
    folder, work : Path
        Where the tables go, and what is made on the way.
    """
    same_time = rules.same_time_history != "none"
    log = run.keep("drawn_order", histories.with_ties_drawn(read.good, rules.seed)) if same_time else read.good
    timeline = run.keep("timeline", histories.timelines(log, rules.gap(read.unit), rules.page_slots, same_time))
    views = run.keep("views", histories.page_views(timeline))
    starts = histories.split_times(timeline, rules.valid_from, rules.test_from, run.rows)
    viewed, users = timeline.join(views.drop("page_end"), histories.page_key(timeline)), read.users
    numbers = {"requests": views.count(), "time_backwards": timeline.backwards.sum()}
    if rules.new_item_share:
        late = run.frame("late", _late_items(len(catalogue), rules.new_item_share, rules.seed))
        kept, users = _without_late(run, viewed, users, late, starts["valid_start"])
        viewed = histories.clicks_before(kept, same_time)
        numbers |= {"requests": viewed.request.nunique(), "rows_kept": viewed.count()}
    viewed, drawn = histories.splits(viewed, **starts), None
    impressions = viewed
    if rules.unclicked:
        impressions, drawn = _with_unclicked(run, viewed, catalogue, rules)

    _write_impressions(run, impressions.join(users, "user"), catalogue, read, folder)
    counts = {name: int(run.rows(number.name("n").as_table())["n"][0]) for name, number in numbers.items()}
    usable = read.rows - sum(read.aside.values())
    kept = counts.pop("rows_kept", usable)
    counts["rows_of_late_items"] = usable - kept
    counts["users"] = int(run.rows(users.agg(n=users.count()))["n"][0])
    counts |= {"items": len(catalogue), "items_with_image": catalogue["image"].count()}
    described = _describe(folder / "impressions.parquet", starts, counts)
    if rules.same_time_history == "leave_one_out":
        described["counts"]["rows_as_history_only"] = kept - described["counts"]["clicks"]
    _write_clicks(run, viewed, users, described["counts"], path=folder / "clicks.parquet", work=work)
    launches, notes = _write_items(run, catalogue, read, rules, folder)
    described["counts"] |= launches
    dates = [date_text(time, read.unit) for time in described["time_range"]]
    understood = [*read.notes, *notes, *doubts(run, read, viewed, views, rules.click_values)]
    return described | {"dates": dates, "time_unit": read.unit, "unclicked_drawn": drawn, "understood": understood}


def _late_items(items: int, share: float, seed: int) -> pl.DataFrame:
    late = sorted(np.random.default_rng(seed).choice(items, round(share * items), replace=False).tolist())
    return pl.DataFrame({"item": pl.Series(late, dtype=pl.Int32)})


def _without_late(
    run: Engine, viewed: ir.Table, users: ir.Table, late: ir.Table, valid_start: int
) -> tuple[ir.Table, ir.Table]:
    """The log without what early page views show of the late items, and the users it has then, renumbered."""
    kept = histories.without_late(viewed, late, valid_start).drop("clicks_before", "backwards")
    fewer = run.keep("fewer_users", histories.numbered_users(kept, "user"))
    users = run.keep("users_left", users.join(fewer, "user").select("user_id", user="number"))
    kept = run.keep("kept", kept.join(fewer, "user").drop("user").rename(user="number"))
    return kept, users


def _with_unclicked(
    run: Engine, viewed: ir.Table, catalogue: pl.DataFrame, rules: Rules
) -> tuple[ir.Table, dict[str, Any]]:
    """The clicks with the unclicked items that the rules ask for, and how these were drawn."""
    alike = pl.col(rules.unclicked_unlike).cast(pl.String) if rules.unclicked_unlike else pl.lit(None, pl.String)
    known = catalogue.select("item", *({"category"} & set(catalogue.columns)), alike=alike)
    part = ibis.cases(*[(viewed.split == name, number) for number, name in enumerate(SPLITS)])
    target = histories.last_of_ties(viewed) if rules.same_time_history == "leave_one_out" else ibis.literal(True)
    clicks = viewed.mutate(part=part, target=target)
    clicks = clicks.drop({"position", "backwards"} & set(viewed.columns))  # draws have no position
    rows, lacking = sample_unclicked(
        run,
        clicks,
        run.frame("pools", known),
        per_click=rules.unclicked,
        how=rules.unclicked_from,
        seed=rules.seed,
    )
    how = {
        "per_click": rules.unclicked,
        "from": rules.unclicked_from,
        "unlike": rules.unclicked_unlike or None,
        "seed": rules.seed,
        "not_found": lacking,
    }
    return run.keep("with_unclicked", rows), how


def _write_impressions(run: Engine, final: ir.Table, catalogue: pl.DataFrame, read: ReadLog, folder: Path) -> None:
    ids = run.frame("item_ids", catalogue.select("item", item_id=pl.col("item_id").cast(pl.String)))
    final = final.join(ids.mutate(item_id=ids.item_id.cast(read.id_kind)), "item")
    order = ["timestamp", "request", *(["position"] if "position" in final.columns else []), "row"]
    known = [name for name in ("scene", "position", "conversion", "oracle", "sampled") if name in final.columns]
    ours = ["user", "item", "user_id", "item_id", "timestamp", "click", "request", "clicks_before", "split", *known]
    run.write(final.order_by(order).select(ours), folder / "impressions.parquet")


def _write_items(
    run: Engine, catalogue: pl.DataFrame, read: ReadLog, rules: Rules, folder: Path
) -> tuple[dict[str, int], list[str]]:
    """Write the catalogue with ``first_seen``: as given, else the time of the first impression that is not drawn.

    Returns
    -------
    counts : dict of str to int
        How many values of a given ``first_seen`` cannot be read.
    notes : list of str
        What is worth saying of it.
    """
    shown = scan_parquet(folder / "impressions.parquet")
    if "sampled" in shown.collect_schema():
        shown = shown.filter(~pl.col("sampled"))
    seen = shown.group_by("item").agg(pl.col("timestamp").min()).collect(engine="streaming")
    first = catalogue.select("item").join(seen, on="item", how="left", maintain_order="left")["timestamp"]
    counts, notes = {}, []
    if "first_seen" in catalogue.columns:
        given, notes = _launches(run, catalogue, read, rules)
        unreadable = catalogue["first_seen"].cast(pl.String).replace("", None).is_not_null() & given.is_null()
        counts["first_seen_unreadable"] = int(unreadable.sum())
        if unreadable.any():
            examples = catalogue["first_seen"].filter(unreadable).cast(pl.String).unique().sort().head(3).to_list()
            notes.append(
                f"{unreadable.sum():,} values of first_seen, such as {examples}, are no times like those of the log; "
                "the first impression is taken instead"
            )
        if early := int((given > first).sum()):
            notes.append(f"{early:,} items are shown before their first_seen")
        first = given.fill_null(first)
    catalogue.with_columns(first_seen=first).write_parquet(folder / "items.parquet")
    return counts, notes


def _launches(run: Engine, catalogue: pl.DataFrame, read: ReadLog, rules: Rules) -> tuple[pl.Series, list[str]]:
    """``first_seen`` of the items in the unit of the log, null where it cannot be read, and what is said of it."""
    times = run.frame("launches", catalogue.select("item", "first_seen"))
    asked = "order" if read.unit == "order" else "auto"
    form = time_form(run, times.first_seen, asked, rules.day_first, "the item list, column 'first_seen'")
    found = run.rows(timed(times.rename(timestamp="first_seen"), form).select("item", "timestamp"))
    given = catalogue.select("item").join(found, on="item", how="left", maintain_order="left")["timestamp"]
    if (form.numbers == COUNTS) != (read.time.numbers == COUNTS) and read.unit != "order":
        given = pl.repeat(None, len(given), dtype=pl.Int64, eager=True)
    notes = [f"first_seen: {note}" for note in form.notes]
    if form.unit != read.unit:
        given = given * 1000 if read.unit == "milliseconds" else given // 1000
        notes.append(f"first_seen is brought from {form.unit} to {read.unit}, the unit of the log")
    return given, notes


def _write_clicks(
    run: Engine, timeline: ir.Table, users: ir.Table, counts: dict[str, int], *, path: Path, work: Path
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
