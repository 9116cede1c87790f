"""Write a dataset folder from a log, an item list and images: all checked, the unusable counted and set aside."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from data_tools.common import files
from data_tools.common.cache import staged
from data_tools.common.parquet import scan_parquet
from data_tools.dataset.near_duplicates import write_near_duplicates
from data_tools.dataset.read_log import Log, ReadLog, read_log
from data_tools.dataset.rules import Rules, TooMuchBadInput, refuse_above
from data_tools.dataset.schema import SCHEMA_VERSION
from data_tools.dataset.tables import write_tables
from data_tools.dataset.users import write_users
from data_tools.log.engines import Engine, engine
from data_tools.log.examples import broken_examples, item_examples
from data_tools.reading.image_places import place_images
from data_tools.reading.images import copy_images, fault_examples
from data_tools.reading.inputs import BROKEN
from data_tools.reading.item_list import unique_items
from data_tools.reading.several import one_picture_a_row, with_further_pictures
from data_tools.reading.user_list import UserList

TABLES = ("items", "impressions", "clicks", "users", "near_duplicates")
console = Console(stderr=True)


def write_dataset(
    out: str | Path,
    log: str | Path | Log,
    items: pl.DataFrame,
    images: str | Path | None,
    *,
    rules: Rules | None = None,
    info: Mapping[str, Any] | None = None,
    broken_items: pl.DataFrame | None = None,
    users: UserList | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Check a log, an item list and their images, and write the dataset folder of :mod:`data_tools.dataset.schema`.

    Parameters
    ----------
    out : str or Path
        The folder to make; it appears whole or not at all.
    log : str, Path or Log
        A file, a folder or a glob, with user_id, item_id, timestamp, click (or as ``rules`` say otherwise) and, where
        known, request_id (one page view of a user), scene, position, conversion (0, 1 or null) and oracle (true click
        probability). A :class:`Log` where columns have other names.
    items : polars.DataFrame
        item_id, image (path relative to ``images``, a list of them, or null) and, where known, title, category,
        first_seen; other columns are carried along. Rows that repeat an item with another image name its further
        pictures. The dense index of an item is its row here, once repeated ids are set aside.
    images : str, Path or None
        The folder of images, a tar, or a folder or a glob of tars; the usable ones are copied. None for none.
    rules : Rules, optional
        How the log is read, page views, splits and limits.
    info : dict, optional
        Further keys of ``dataset.json``, such as source and licence.
    broken_items : polars.DataFrame, optional
        Lines of the item list that are no item.
    users : UserList, optional
        A table of users.
    notes : sequence of str
        What was understood of the item list.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UserError
        If ``out`` exists, the log cannot be read, or more than the allowed share of rows or images is unusable.
    """
    out, rules = Path(out), rules or Rules()
    log = log if isinstance(log, Log) else Log(log, {})
    aside = Path(f"{staged(out)}.set_aside")
    with (
        files.whole_folder(out) as scratch,
        _kept_for_a_look(scratch, aside),
        tempfile.TemporaryDirectory(dir=scratch, prefix=".in-") as inside,
        engine(rules.engine, scratch, rules.memory) as run,
    ):
        work = Path(inside)
        pictured, listed = one_picture_a_row(items)
        placed, source = place_images(pictured, images, work)
        single, repeated = with_further_pictures(placed)
        catalogue, bad_items = unique_items(single)
        rules.check_items(catalogue.columns)
        aside_items = _set_items_aside(bad_items, broken_items, len(items), rules, scratch, kept=catalogue)
        with console.status(f"reading {log.place}"):
            read = read_log(run, log, catalogue, rules, folder=scratch, work=work)
        pictured, bad_images = _copy_images(catalogue, source, scratch, rules, where=images)
        described = _write_tables(run, read, pictured, users, rules, folder=scratch, work=work)
        drawn = described.pop("unclicked_drawn")
        written = [path for name in TABLES if (path := scratch / f"{name}.parquet").exists()]
        record = {
            "schema_version": SCHEMA_VERSION,
            **described,
            "understood": [*notes, *listed, *repeated, *described["understood"], *_doubts(described, items, images)],
            "set_aside": read.aside,
            "set_aside_items": aside_items,
            "bad_images": bad_images,
            "page_views": _page_views(read, rules),
            "labels": {"rating_threshold": rules.rating_threshold, "unclicked_drawn": drawn},
            "new_item_share": rules.new_item_share,
            "near_duplicates": rules.near_duplicates,
            "same_time_history": rules.same_time_history,
            **(info or {}),
            "tables": {path.name: found for path, found in files.digests(written).items()},
            "fingerprint": files.digest(written),
        }
        files.write_json(scratch / "dataset.json", record)
    return out


def _write_tables(
    run: Engine,
    read: ReadLog,
    pictured: pl.DataFrame,
    users: UserList | None,
    rules: Rules,
    *,
    folder: Path,
    work: Path,
) -> dict[str, Any]:
    """Write all tables of a dataset; what :func:`data_tools.dataset.tables.write_tables` says, with all counts."""
    with console.status("histories, page views and splits"):
        described = write_tables(run, read, pictured, rules, folder=folder, work=work)
    if "images" in pictured.columns:
        described["counts"]["pictures"] = int(pictured["images"].list.len().sum())
    if users is not None:
        described["counts"] |= write_users(users, rules, folder)
    if rules.near_duplicates is not None:
        described["counts"] |= write_near_duplicates(pictured, folder, rules.near_duplicates)
    described["counts"] |= {"rows_read": read.rows, "rows_set_aside": sum(read.aside.values())}
    return described


def _counted(reasons: pl.Series) -> dict[str, int]:
    return dict(Counter(reasons.to_list()).most_common())


@contextlib.contextmanager
def _kept_for_a_look(scratch: Path, aside: Path) -> Iterator[None]:
    """Where bad input stops the job, keep what was set aside, as CSV in ``aside``; of an earlier stop, nothing."""
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield
    except TooMuchBadInput as error:
        aside.mkdir()
        for path in sorted(scratch.glob("set_aside*.parquet")):
            found = scan_parquet(path)
            found.cast(pl.String).sink_csv(aside / f"{path.stem}.csv")
        raise TooMuchBadInput(f"{error}\n  What was set aside is in {aside}, to look at.") from None


def _set_items_aside(
    bad: pl.DataFrame, broken: pl.DataFrame | None, read: int, rules: Rules, folder: Path, *, kept: pl.DataFrame
) -> dict[str, int]:
    """Write the unusable items and lines of the item list; how many there are for each reason."""
    broken = pl.DataFrame(schema=BROKEN) if broken is None else broken
    bad.write_parquet(folder / "set_aside_items.parquet")
    broken.write_parquet(folder / "set_aside_lines.parquet")
    counts = _counted(bad["reason"]) | _counted(broken["reason"])
    shown = item_examples(bad, kept) | broken_examples(broken)
    refuse_above(rules.max_bad_share, counts, read + len(broken), "lines of the item list", "max_bad_share", shown)
    return counts


def _copy_images(
    catalogue: pl.DataFrame, source: Path, folder: Path, rules: Rules, *, where: str | Path | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Copy the pictures into the dataset; the items with their paths there, and how many are unusable by reason.

    ``image`` is an item's first usable picture, null where it has none; ``images``, where items have several, all.
    """
    several = "images" in catalogue.columns
    listed = catalogue.select("item", "item_id", image=pl.coalesce(["images"] * several + [pl.concat_list("image")]))
    flat = listed.explode("image").with_columns(place=pl.int_range(pl.len()).over("item"))
    stems = flat.select(pl.when(place=0).then(pl.format("{}", "item")).otherwise(pl.format("{}-{}", "item", "place")))
    names = flat["image"].to_list()
    copied, faults = copy_images(names, source, folder / "images", stems.to_series().to_list())
    bad = _counted(pl.Series([fault for fault in faults if fault], dtype=pl.String))
    shown = fault_examples(flat["item_id"].to_list(), names, faults, source)
    refuse_above(rules.max_bad_image_share, bad, len(names), f"images in {where}", "max_bad_image_share", shown)
    paths = flat.with_columns(path=pl.Series([name and f"images/{name}" for name in copied], dtype=pl.String))
    usable = paths.group_by("item", maintain_order=True).agg(images=pl.col("path").drop_nulls())["images"]
    pictured = catalogue.with_columns(image=usable.list.first())
    return pictured.with_columns(images=usable) if several else pictured, bad


def _doubts(described: Mapping[str, Any], items: pl.DataFrame, images: str | Path | None) -> list[str]:
    """What is worth saying of a dataset that lacks something."""
    counts, notes = described["counts"], []
    if images is not None and "image" not in items.columns and (bare := counts["items"] - counts["items_with_image"]):
        notes = [f"{bare:,} items have no picture that is named by their id"]
    if not described["splits"]["train"]:
        notes.append("nothing is left to train on: all impressions have the time at which validation or test start")
    return notes


def _page_views(read: ReadLog, rules: Rules) -> dict[str, Any]:
    if "request_id" in read.good.columns:
        return {"from": "a click and the items drawn for it" if rules.unclicked else "request_id"}
    gap = None if read.unit == "order" else rules.page_gap
    return {"from": "gap", "gap": gap, "slots": rules.page_slots}
