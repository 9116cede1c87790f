"""Facts of a dataset's log, aggregated from its Parquet files without holding its rows in memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.parquet import scan_parquet
from data_tools.dataset.schema import SPLITS, Dataset

HISTORY_EDGES = (0, 1, 3, 6, 11, 21, 51, 101)
SHOWN_EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
MOST_BUCKETS = 60


def _collect(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def _row(frame: pl.LazyFrame) -> dict[str, Any]:
    return _collect(frame).row(0, named=True)


def histogram(counts: pl.DataFrame, edges: tuple[int, ...]) -> list[tuple[str, int]]:
    """Rows of ``counts`` (value, rows) by ranges that start at the ``edges``: ("3 to 5", rows) each."""
    values, rows = counts["value"].to_numpy(), counts["rows"].to_numpy()
    place = np.searchsorted(edges, values, side="right") - 1
    sums = np.bincount(place, weights=rows, minlength=len(edges)).astype(int)
    names = [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)]
    return list(zip([*names, f"{edges[-1]:,} or more"], sums.tolist(), strict=True))


def _by_split(log: pl.LazyFrame) -> list[dict[str, Any]]:
    """One dict per split: sizes, click rate, and shares of cold items, new users and empty histories."""
    trained = log.filter(pl.col("split") == "train")
    items = trained.select("item").unique().with_columns(warm_item=True)
    users = trained.select("user").unique().with_columns(warm_user=True)
    seen = log.join(items, on="item", how="left").join(users, on="user", how="left")
    facts = seen.group_by("split").agg(
        impressions=pl.len(),
        clicks=pl.col("click").sum().cast(pl.Int64),
        click_rate=pl.col("click").mean(),
        users=pl.col("user").n_unique(),
        items=pl.col("item").n_unique(),
        page_views=pl.col("request").n_unique(),
        cold_share=pl.col("warm_item").is_null().mean(),
        new_user_share=pl.col("warm_user").is_null().mean(),
        empty_history_share=(pl.col("clicks_before") == 0).mean(),
        first=pl.col("timestamp").min(),
        last=pl.col("timestamp").max(),
    )
    rows = {row["split"]: row for row in _collect(facts).iter_rows(named=True)}
    return [rows[split] for split in SPLITS if split in rows]


def _by_day(log: pl.LazyFrame, day: int) -> list[dict[str, Any]]:
    """One dict per bucket of whole days: impressions, click rate and the share of items never shown before."""
    days = log.with_columns(day=pl.col("timestamp").floordiv(day))
    first = days.group_by("item").agg(first_day=pl.col("day").min())
    facts = (
        days.join(first, on="item")
        .group_by("day")
        .agg(
            impressions=pl.len(),
            clicks=pl.col("click").sum().cast(pl.Int64),
            cold=(pl.col("day") == pl.col("first_day")).sum(),
        )
    )
    frame = _collect(facts)
    start, end = frame["day"].min(), frame["day"].max()
    width = -(-(end - start + 1) // MOST_BUCKETS)
    buckets = frame.group_by(bucket=(pl.col("day") - start) // width).sum().sort("bucket")
    return [
        {
            "start": (start + row["bucket"] * width) * day,
            "days": width,
            "impressions": row["impressions"],
            "click_rate": row["clicks"] / row["impressions"],
            "cold_share": row["cold"] / row["impressions"],
        }
        for row in buckets.iter_rows(named=True)
    ]


def _pages(log: pl.LazyFrame) -> dict[str, Any]:
    """Slots per page view, and the share of the page views with both a clicked and an unclicked item."""
    views = log.group_by("request").agg(
        slots=pl.len(), clicks=pl.col("click").sum().cast(pl.Int64), split=pl.col("split").first()
    )
    both = (pl.col("clicks") > 0) & (pl.col("clicks") < pl.col("slots"))
    return _row(
        views.select(
            slots=pl.col("slots").mean(),
            test_with_both=both.filter(pl.col("split") == "test").mean(),
            with_both=both.mean(),
        )
    )


def _future_clicks(log: pl.LazyFrame, clicks: pl.LazyFrame, same_time: bool) -> int:
    """Impressions whose history is not the clicks before them: one is too late, or one is missing.

    Clicks of the same time do not belong to it, unless ``same_time``: then some may.
    """
    flat = clicks.select("user", "timestamps").explode("timestamps").drop_nulls()
    numbered = flat.with_columns(number=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user"))
    last = numbered.rename({"timestamps": "last"})
    following = numbered.select("user", following="timestamps", number=pl.col("number") - 1)
    at = {"left_on": ["user", "clicks_before"], "right_on": ["user", "number"], "how": "left"}
    joined = log.select("user", "timestamp", "clicks_before").join(last, **at).join(following, **at)
    wrong = (
        (pl.col("last") > pl.col("timestamp"))
        | (pl.lit(not same_time) & (pl.col("last") == pl.col("timestamp")))
        | (pl.col("following") < pl.col("timestamp"))
        | ((pl.col("clicks_before") > 0) & pl.col("last").is_null())
    )
    return _row(joined.select(wrong=wrong.fill_null(False).sum()))["wrong"]


def _users(log: pl.LazyFrame, day: int | None) -> dict[str, Any]:
    users = log.group_by("user").agg(
        clicks=pl.col("click").sum().cast(pl.Int64), span=pl.col("timestamp").max() - pl.col("timestamp").min()
    )
    one_day = (pl.col("span") < day).mean() if day else pl.lit(None)
    facts = users.select(users=pl.len(), median_clicks=pl.col("clicks").median(), within_a_day=one_day)
    return _row(facts)


def log_facts(dataset: Dataset) -> dict[str, Any]:
    """Counts, times, splits, page views, histories, items shown and days of a dataset.

    Returns
    -------
    dict
        counts, splits (one dict each), days (one dict per bucket; empty where times are not dates), pages, users,
        histories and shown (histograms), scenes, future_clicks, and per item ``shows`` (polars.DataFrame: item,
        impressions, clicks, cold: never shown in training).
    """
    log, clicks, items = (scan_parquet(dataset.table(name)) for name in ("impressions", "clicks", "items"))
    columns = log.collect_schema().names()
    day = dataset.day
    shown = log.group_by("item").agg(
        impressions=pl.len(),
        clicks=pl.col("click").sum().cast(pl.Int64),
        trained=(pl.col("split") == "train").any(),
    )
    shows = _collect(items.select("item").join(shown, on="item", how="left").sort("item"))
    shows = shows.with_columns(pl.col("impressions", "clicks").fill_null(0), cold=~pl.col("trained").fill_null(False))
    histories = _collect(log.group_by(value="clicks_before").agg(rows=pl.len()))
    more = [pl.col(name).sum().cast(pl.Int64) for name in ("conversion", "sampled") if name in columns]
    totals = log.select(
        pl.len().alias("impressions"),
        pl.col("click").sum().cast(pl.Int64).alias("clicks"),
        pl.col("user").n_unique().alias("users"),
        pl.col("request").n_unique().alias("page_views"),
        pl.col("timestamp").min().alias("first"),
        pl.col("timestamp").max().alias("last"),
        *more,
    )
    scenes = log.group_by("scene").agg(impressions=pl.len(), click_rate=pl.col("click").mean())
    return {
        "counts": {"items": len(shows), **_row(totals)},
        "day": day,
        "splits": _by_split(log),
        "days": _by_day(log, day) if day else [],
        "pages": _pages(log),
        "users": _users(log, day),
        "histories": histogram(histories, HISTORY_EDGES),
        "shown": histogram(shows.group_by(value="impressions").agg(rows=pl.len()), SHOWN_EDGES),
        "scenes": _collect(scenes.sort("scene")).to_dicts() if "scene" in columns else [],
        "future_clicks": _future_clicks(log, clicks, dataset.info.get("same_time_history", "none") != "none"),
        "shows": shows.drop("trained"),
    }
