"""Makes the plan of shards (:mod:`data_tools.sharding.plan`) of a dataset.

The log is joined and sorted by DuckDB, which spills to disk; what stays in memory is the plan's arrays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data_tools.common.cli import UserError
from data_tools.common.files import whole_folder, write_json
from data_tools.common.parquet import parquet_table
from data_tools.common.storage import sizes
from data_tools.dataset.near_duplicates import like_any
from data_tools.dataset.schema import SPLITS, Dataset
from data_tools.sharding.plan import ARRAYS, Plan, trained_digest
from data_tools.sharding.settings import Settings


@dataclass(frozen=True)
class Held:
    """What shards that a dataset is appended to hold of it.

    Attributes
    ----------
    number : int32 array (items,), each item's number in the shards, old or new
    written : int32 array, the items whose pictures the shards lack
    since : int
        Time of the first training page view that they lack.
    """

    number: np.ndarray
    written: np.ndarray
    since: int


def make_plan(dataset: Dataset, settings: Settings, folder: Path, held: Held | None = None) -> Plan:
    """Plan the shards of a dataset into ``folder`` (nothing is done if it holds a finished plan).

    Parameters
    ----------
    held : Held or None
        What need not be written again.

    Raises
    ------
    UserError
        If no training request can be made, or a picture of the dataset is gone.
    """
    if folder.exists():
        return Plan(folder)
    with whole_folder(folder) as scratch:
        left_out = _plan_items(dataset, scratch, settings)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="work-") as work:
            pages, categories = _plan_pages(dataset, settings, scratch, Path(work))
        usable = _plan_requests(pages, dataset, settings, scratch)
        training = usable & (pages["split"] == 0)
        plan = Plan(scratch)
        mentioned, seen = _mentioned(plan, usable), _mentioned(plan, training)
        by_copy = _see_near_duplicates(seen, dataset)
        seen.tofile(scratch / "seen")
        lacking = usable & ((pages["split"] != 0) | (pages["time"] >= held.since)) if held else usable
        groups, order = _assign(lacking, pages["split"], pages["category"], settings)
        order.tofile(scratch / "order")
        _plan_pictures(plan, held, scratch)
        info = {
            "categories": categories,
            "groups": groups,
            "left_out_requests": int((~usable).sum()),
            "left_out_pictures": left_out,
            "seen_by_near_duplicate": int((by_copy & mentioned).sum()),
            "slots": int(pages["slots"][usable].max()),
            "distinct_images": int(mentioned.sum()) if settings.pictures != "none" else 0,
            "distinct_image_bytes": int(plan.image_bytes[mentioned].sum()) if settings.pictures != "none" else 0,
            "trained": trained_digest(plan, training),
        }
        if held:
            info["held"] = trained_digest(plan, training & (pages["time"] < held.since))
        write_json(scratch / "plan.json", info)
    return Plan(folder)


def _plan_items(dataset: Dataset, folder: Path, settings: Settings) -> int:
    """Paths and sizes of the pictures, in blocks of the catalogue: the items', then further ones of those with several.

    Without pictures, each item counts as one byte. Returns the number of further pictures that are left out.
    """
    file, pictures = pq.ParquetFile(dataset.table("items")), settings.pictures != "none"
    written = 0
    with ExitStack() as stack:
        path, start, size = (stack.enter_context(open(folder / n, "wb")) for n in ("path", "path_start", "image_bytes"))
        np.zeros(1, np.int64).tofile(start)

        def add(images: list[bytes]) -> None:
            nonlocal written
            path.write(b"".join(images))
            starts = np.cumsum([len(image) for image in images], dtype=np.int64) + written
            starts.tofile(start)
            written = int(starts[-1]) if len(starts) else written
            sizes = _sizes(dataset.place, images) if pictures else np.ones(len(images), np.int64)
            sizes.tofile(size)

        for batch in file.iter_batches(columns=["image"]):
            add([image.encode() if image else b"" for image in batch["image"].to_pylist()])
        if not pictures or "images" not in file.schema_arrow.names:
            return 0
        left_out = 0
        for owner, images in _further(file):
            if settings.layout != "catalogue":
                left_out += len(images)
                continue
            add(images)
            with open(folder / "owner", "ab") as owners:
                owner.astype(np.int32).tofile(owners)
    return left_out


def _plan_pictures(plan: Plan, held: Held | None, folder: Path) -> None:
    """Write which pictures go into the shards, those of an item in a row, and, to append, the items' numbers there."""
    if held:
        held.number.tofile(folder / "number")
        held.written.tofile(folder / "written")
        return
    written = np.flatnonzero(plan.image_bytes).astype(np.int32)
    written[np.argsort(plan.owners(written), kind="stable")].tofile(folder / "written")


def _further(file: pq.ParquetFile) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """Blocks of the items' pictures but for the first of each: the items that they are of, and their paths."""
    start = 0
    for batch in file.iter_batches(columns=["images"]):
        lists = [images[1:] if images else [] for images in batch["images"].to_pylist()]
        if images := [image.encode() for own in lists for image in own]:
            yield start + np.repeat(np.arange(len(lists)), [len(own) for own in lists]), images
        start += len(lists)


def _sizes(folder: Path, images: list[bytes]) -> np.ndarray:
    """Bytes of the pictures, int64; 0 where an item has none."""
    found, named = np.zeros(len(images), np.int64), [row for row, image in enumerate(images) if image]
    for row, size in zip(named, sizes(folder, [images[row].decode() for row in named]), strict=True):
        if not size:
            file = folder / images[row].decode()
            raise UserError(
                f"{file} is listed in items.parquet but is {'gone' if size == 0 else 'of unknown size'}; put it back, "
                "or prepare the dataset again"
            )
        found[row] = size
    return found


def _plan_pages(
    dataset: Dataset, settings: Settings, folder: Path, work: Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Write the pictured slots, page view after page view; return the page views' arrays and the categories."""
    # DuckDB takes what follows a question mark in a path for options.
    file = ":memory:" if "?" in str(work) else work / "plan.duckdb"
    engine = ibis.duckdb.connect(file, temp_directory=str(work / "spill"), memory_limit=settings.memory)
    try:
        log = parquet_table(engine, [dataset.table("impressions")], file_row_number=True)
        items = parquet_table(engine, [dataset.table("items")])
        category = items.category.cast("string").fill_null("") if "category" in items.columns else ibis.literal("")
        pictured = ibis.literal(True) if settings.pictures == "none" else items.image.notnull()
        items = items.select("item", pictured=pictured, name=category)
        categories = sorted(items.name.as_table().distinct().execute()["name"].to_list())
        items = engine.create_table(
            "known", items.mutate(category=ibis.dense_rank().over(order_by=items.name).cast("int32")).drop("name")
        )
        known = [name for name in ("oracle",) if name in log.columns]
        log = log.select(
            "request", "user", "item", "click", "clicks_before", "split", "timestamp", *known, row="file_row_number"
        ).inner_join(items, "item")
        table = _page_views(log).to_pyarrow()
        slots = log.filter(log.pictured).order_by("request", "row").select("item", "click", *known)
        slots.to_parquet(work / "slots.parquet")
        _spread(work / "slots.parquet", folder)
        return {name: table[name].to_numpy() for name in table.column_names}, categories
    finally:
        engine.disconnect()


def _page_views(log: ir.Table) -> ir.Table:
    """One row a page view, in order: request, user, split (a number), clicks_before, slots (pictured), time, category.

    Its category is that of most of its slots; of several, the one that is shown first.
    """
    votes = log.group_by("request", "category").agg(votes=log.count(), row=log.row.min())
    votes = votes.group_by("request").agg(category=votes.category.argmin(votes.row - votes.votes * 2**40))
    pages = log.group_by("request").agg(
        user=log.user.argmin(log.row),
        split=log.split.argmin(log.row),
        clicks_before=log.clicks_before.min(),
        slots=log.pictured.sum(),
        time=log.timestamp.min(),
    )
    pages = pages.inner_join(votes, "request").order_by("request")
    return pages.mutate(split=ibis.cases(*[(pages.split == name, number) for number, name in enumerate(SPLITS)]))


def _plan_requests(pages: dict[str, np.ndarray], dataset: Dataset, settings: Settings, folder: Path) -> np.ndarray:
    """Write the arrays of the page views; returns which of them can be requests, bool (page views,).

    A request has a pictured slot and an earlier pictured click of its user.
    """
    offsets, pictured_before = _plan_clicks(dataset, folder)
    first = offsets[pages["user"]]
    stop = pictured_before[first + pages["clicks_before"]]
    start = np.maximum(pictured_before[first], stop - settings.history)
    slot_stop = np.cumsum(pages["slots"])
    usable = (stop > start) & (pages["slots"] > 0)
    if not (usable & (pages["split"] == 0)).any():
        raise UserError(
            f"{dataset.place}: none of {len(usable)} page views has both a picture and an earlier click of its user in "
            "the training time range; a longer log or more pictures are needed (for vectors instead of pictures: "
            "--pictures none)"
        )
    arrays = {
        "request": pages["request"],
        "category": pages["category"],
        "history_start": start,
        "history_stop": stop,
        "fresh": _fresh(pages["user"], pages["split"], start, stop, usable),
        "slot_start": slot_stop - pages["slots"],
        "slot_stop": slot_stop,
    }
    for name, values in arrays.items():
        values.astype(ARRAYS[name]).tofile(folder / name)
    return usable


def _spread(table: Path, folder: Path) -> None:
    """Write each column of a Parquet file into its own file."""
    for batch in pq.ParquetFile(table).iter_batches():
        for name in batch.schema.names:
            with open(folder / name, "ab") as file:
                batch[name].to_numpy(zero_copy_only=False).astype(ARRAYS[name]).tofile(file)


def _plan_clicks(dataset: Dataset, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the pictured clicks; return each user's first click, and the pictured ones among the clicks before each."""
    pictured = np.memmap(folder / "image_bytes", dtype=np.int64, mode="r") > 0
    lengths, before = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    total = 0
    with open(folder / "clicked", "wb") as clicked:
        for batch in pq.ParquetFile(dataset.table("clicks")).iter_batches(columns=["items"]):
            lists = pl.Series(batch["items"])
            items = lists.explode(empty_as_null=False).to_numpy()
            kept = pictured[items]
            items[kept].astype(np.int32).tofile(clicked)
            lengths.append(lists.list.len().to_numpy().astype(np.int64))
            before.append(np.cumsum(kept, dtype=np.int64) + total)
            total += int(kept.sum())
    return np.cumsum(np.concatenate(lengths)), np.concatenate(before)


def _fresh(user: np.ndarray, split: np.ndarray, start: np.ndarray, stop: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """How many of each history's last clicks are in no earlier usable page view of the user in the split.

    Histories are clicked[start:stop]. So each click is fresh once, but for those that no history reaches.
    """
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((stop[rows], user[rows], split[rows]))]
    follows = (np.diff(user[rows]) == 0) & (np.diff(split[rows]) == 0)
    known = start[rows]
    known[1:][follows] = np.maximum(known[1:], stop[rows[:-1]])[follows]
    fresh = np.zeros(len(usable), dtype=np.int64)
    fresh[rows] = stop[rows] - known
    return fresh


def _see_near_duplicates(seen: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Mark as seen what a near-duplicate of a seen item is, in place; returns what was marked, bool (pictures,)."""
    before = seen.copy()
    if (first := dataset.first_alike) is not None:
        seen[: len(first)] = like_any(first, seen[: len(first)])
    return seen & ~before


def _mentioned(plan: Plan, pages: np.ndarray) -> np.ndarray:
    """The items, bool (items,), that are in the histories or slots of some page views, bool (page views,)."""
    found = np.zeros(len(plan.image_bytes), dtype=bool)
    found[plan.item[np.repeat(pages, plan.slot_stop - plan.slot_start)]] = True
    # Each history is a range of the clicks: count the ranges that begin and end at each click.
    edges = np.zeros(len(plan.clicked) + 1, dtype=np.int32)
    np.add.at(edges, plan.history_start[pages], 1)
    np.add.at(edges, plan.history_stop[pages], -1)
    found[plan.clicked[np.cumsum(edges)[:-1] > 0]] = True
    return found


def _assign(
    chosen: np.ndarray, split: np.ndarray, category: np.ndarray, settings: Settings
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Groups of page views (split, category and range of the order), and the page views in the groups' order."""
    groups, order, done = [], [np.empty(0, np.int64)], 0
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(chosen & (split == number))
        for code, part in _chunks(rows, category[rows], settings):
            groups.append({"split": name, "category": code, "start": done, "stop": (done := done + len(part))})
            order.append(part)
    return groups, np.concatenate(order).astype(np.int64)


def _chunks(rows: np.ndarray, category: np.ndarray, settings: Settings) -> Iterator[tuple[int | None, np.ndarray]]:
    """(category, its page views) a group: those of one category shuffled and cut, what is too few for one mixed."""
    rng = np.random.default_rng(settings.seed)
    size = settings.requests_per_shard
    smallest = min(settings.smallest_shard, size)
    mixed = [] if settings.by_category else [rows]
    groups = np.argsort(category, kind="stable")
    codes, firsts = np.unique(category[groups], return_index=True)
    for code, first, end in zip(codes, firsts, [*firsts[1:], len(rows)], strict=False) if settings.by_category else []:
        shuffled = rows[groups[first:end]][rng.permutation(end - first)]
        for start in range(0, len(shuffled), size):
            if len(part := shuffled[start : start + size]) < smallest:
                mixed.append(part)
            else:
                yield int(code), part
    rest = np.concatenate([*mixed, rows[:0]])
    shuffled = rest[rng.permutation(len(rest))]
    for start in range(0, len(shuffled), size):
        yield None, shuffled[start : start + size]
