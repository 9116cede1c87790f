"""A click log of any size in the schema of a dataset folder, written in pieces: what the CTR benchmarks train on.

Every user came with clicks from before the log, 0 to 60 of them, so that histories cut to 50 hold about 30. Items have
a hidden quality and one of 32 hidden styles, users like four of them, and clicks follow: a model has to learn from IDs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.files import whole_folder, write_json

STYLES, PIECE = 32, 1 << 18


def _skewed(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draws of 0..count-1, the first ones most often."""
    return (count * rng.random(size) ** 2).astype(np.int32)


def write_click_log(folder: Path, impressions: int, users: int, items: int, seed: int = 0) -> None:
    """Write a dataset folder; the first 80 % of the impressions are for training, then 10 % each."""
    rng = np.random.default_rng(seed)
    style, quality = rng.integers(STYLES, size=items), rng.normal(size=items)
    by_style = [np.flatnonzero(style == one).astype(np.int32) for one in range(STYLES)]
    likes = np.zeros((users, STYLES), dtype=bool)
    liked = rng.random((users, STYLES)).argsort(axis=1)[:, :4]
    np.put_along_axis(likes, liked, True, axis=1)

    before = rng.integers(0, 61, size=users)
    past_user = np.repeat(np.arange(users, dtype=np.int32), before)
    of_style = liked[past_user, rng.integers(4, size=len(past_user))]
    sizes = np.array([len(own) for own in by_style])
    past_item = np.concatenate(by_style)[(np.cumsum(sizes) - sizes)[of_style] + _skewed_each(rng, sizes[of_style])]

    cuts = [int(0.8 * impressions), int(0.9 * impressions)]
    so_far = before.copy()
    clicked_user, clicked_item, clicked_time = [past_user], [past_item], [np.zeros(len(past_user), dtype=np.int64)]
    with whole_folder(folder) as scratch:
        writer = None
        for start in range(0, impressions, PIECE):
            time = np.arange(start, min(start + PIECE, impressions), dtype=np.int64)
            user = rng.integers(users, size=len(time)).astype(np.int32)
            item = _skewed(rng, items, len(time))
            logit = np.where(likes[user, style[item]], -0.5, -3.0) + quality[item]
            click = rng.random(len(time)) < 1 / (1 + np.exp(-logit))
            # Clicks of the same user earlier in this piece count too.
            order = np.argsort(user, kind="stable")
            running = np.cumsum(click[order]) - click[order]
            first = np.flatnonzero(np.r_[True, np.diff(user[order]) > 0])
            running -= np.repeat(running[first], np.diff(np.r_[first, len(user)]))
            count = np.empty(len(time), dtype=np.int32)
            count[order] = running
            columns = {
                "user": user,
                "item": item,
                "user_id": user,
                "item_id": item,
                "timestamp": time + 1,
                "click": click.astype(np.int8),
                "request": time,
                "clicks_before": (count + so_far[user]).astype(np.int32),
                "split": np.array(["train", "valid", "test"])[np.searchsorted(cuts, time, side="right")],
            }
            piece = pa.table(columns)
            writer = writer or pq.ParquetWriter(scratch / "impressions.parquet", piece.schema)
            writer.write_table(piece)
            so_far += np.bincount(user[click], minlength=users)
            clicked_user.append(user[click])
            clicked_item.append(item[click])
            clicked_time.append(time[click] + 1)
        writer.close()
        _write_rest(scratch, items, users, *map(np.concatenate, (clicked_user, clicked_item, clicked_time)))
        info = {"schema_version": 1, "source": "tests/benchmarks/click_log.py"}
        info["fingerprint"] = f"click-log-{impressions}-{users}-{items}-{seed}"
        write_json(scratch / "dataset.json", info)


def _skewed_each(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return (sizes * rng.random(len(sizes)) ** 2).astype(np.int64)


def _write_rest(folder: Path, items: int, users: int, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> None:
    order = np.argsort(user, kind="stable")
    offsets = np.r_[0, np.cumsum(np.bincount(user, minlength=users))].astype(np.int64)
    people = np.arange(users, dtype=np.int32)
    lists = {
        name: pa.LargeListArray.from_arrays(offsets, values[order])
        for name, values in (("items", item), ("timestamps", time))
    }
    pq.write_table(pa.table({"user": people, "user_id": people, **lists}), folder / "clicks.parquet")
    names = np.arange(items, dtype=np.int32)
    pl.DataFrame({"item": names, "item_id": names}).with_columns(
        image=pl.lit(None, dtype=pl.String), first_seen=pl.lit(0, dtype=pl.Int64)
    ).write_parquet(folder / "items.parquet")
