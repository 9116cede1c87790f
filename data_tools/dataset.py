"""Write a dataset folder from a log, an item list and images: all checked, the unusable counted and set aside."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import polars as pl
from ibis.backends.duckdb import Backend
from rich.console import Console

from data_tools import behaviour_log, files, histories
from data_tools.cli import UserError
from data_tools.images import copy_images
from data_tools.schema import SCHEMA_VERSION, SPLITS

console = Console(stderr=True)


@dataclass(kw_only=True)
class Rules:
    """How impressions become page views and splits, and how much unusable input is borne.

    Attributes:
        page_gap: Impressions of a user this close in time share a page view where the log has no request_id; in the
            unit of the timestamps.
        page_slots: Most impressions in a page view made so.
        valid_from: Fraction of the impressions, in time order, at which the validation split starts.
        test_from: Fraction at which the test split starts.
        new_item_share: Share of the items, drawn at random, to treat as launched when the validation split starts:
            what earlier page views show of them is left out and counted. For logs whose catalogue hardly grows.
        max_bad_share: Largest share of the rows of the log that may be set aside.
        max_bad_image_share: Largest share of the items whose image may be missing or unreadable.
        memory: What DuckDB takes before it spills to disk.
    """

    page_gap: int = 1800
    page_slots: int = 10
    valid_from: float = 0.8
    test_from: float = 0.9
    new_item_share: float = 0.0
    max_bad_share: float = 0.05
    max_bad_image_share: float = 0.05
    memory: str = "4GB"

    def __post_init__(self) -> None:
        if not 0 < self.valid_from < self.test_from < 1:
            raise UserError(f"0 < valid_from < test_from < 1 is expected, not {self.valid_from} and {self.test_from}")
        if not 0 <= self.new_item_share < 1:
            raise UserError(f"0 <= new_item_share < 1 is expected, not {self.new_item_share}")
        if self.page_gap < 0 or self.page_slots < 1:
            raise UserError(f"page_gap >= 0 and page_slots >= 1 are expected, not {self.page_gap}, {self.page_slots}")


@contextlib.contextmanager
def _engine(folder: Path, memory: str) -> Iterator[Backend]:
    """DuckDB with all that it puts down inside ``folder``, and gone from there at the end."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".work-") as work:
        try:
            engine = ibis.duckdb.connect(f"{work}/log.duckdb", temp_directory=f"{work}/spill", memory_limit=memory)
        except duckdb.Error as error:
            raise UserError(f"DuckDB cannot start with memory {memory!r}: {error}") from error
        try:
            yield engine
        except duckdb.OperationalError as error:
            raise UserError(f"the log could not be worked through: {error}") from error
        finally:
            engine.disconnect()


def _unique_items(items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The catalogue with ``item`` (int32, the row) in front, and the items set aside, each with its ``reason``."""
    kind = items.schema["item_id"]
    if not (kind == pl.String or kind.is_integer()):
        raise UserError(f"the item list's item_id is {kind}; store ids as text or as integers")
    text = [name for name in ("image", "title", "category") if name in items.columns]
    for name in text:
        if items.schema[name].is_nested():
            raise UserError(f"the item list's {name} is {items.schema[name]}; one text an item is expected")
    items = items.rename({"item": "item_", "reason": "reason_"}, strict=False)
    items = items.with_columns(pl.col(text).cast(pl.String)).with_columns(pl.col("image").replace("", None))
    key = pl.col("item_id").cast(pl.String)
    missing = key.is_null() | (key.str.strip_chars() == "")
    reasons = (
        pl.when(missing).then(pl.lit("item_id missing")).when(~key.is_first_distinct()).then(pl.lit("item_id repeated"))
    )
    judged = items.select(reason=reasons, **{name: name for name in items.columns})
    kept = judged.filter(pl.col("reason").is_null()).drop("reason").with_row_index("item")
    return kept.with_columns(pl.col("item").cast(pl.Int32)), judged.filter(pl.col("reason").is_not_null())


def _stop_above(share: float, bad: dict[str, int], total: int, what: str, setting: str) -> None:
    if sum(bad.values()) > share * total:
        counts = "".join(f"\n  {reason}: {count:,}" for reason, count in bad.items())
        raise UserError(
            f"{sum(bad.values()):,} of {total:,} {what} are unusable, above the share of {share} that is borne:{counts}"
            f"\n  Nothing was written. Mend the input, or bear more with --{setting}."
        )


def _read_impressions(
    engine: Backend, impressions: Path, columns: Mapping[str, str], catalogue: pl.DataFrame
) -> tuple[ir.Table, ir.Table]:
    """The log as it stands, and the same with its values read and every row judged (kept by the engine)."""
    keys = ibis.memtable(catalogue.select("item", key=pl.col("item_id").cast(pl.String)))
    try:
        log = behaviour_log.read_log(engine, impressions)
        found = [name for name in log.columns if name != "__row__"]
        required, optional = behaviour_log.LOG_COLUMNS, behaviour_log.LOG_OPTIONAL
        resolved = behaviour_log.resolve_columns(columns, found, required, optional, str(impressions))
        return log, engine.create_table("checked", behaviour_log.check_log(log, resolved, keys, str(impressions)))
    except duckdb.OperationalError:
        raise
    except duckdb.Error as error:
        # DuckDB's advice that follows is on settings that are not to be had here.
        raise UserError(f"{impressions} cannot be read: {str(error).partition('Possible')[0].strip()}") from error


def _write_tables(
    engine: Backend, good: ir.Table, catalogue: pl.DataFrame, rules: Rules, folder: Path
) -> dict[str, Any]:
    """Write the three tables; return what ``dataset.json`` says of them."""
    paged = engine.create_table("paged", histories.page_views(good, rules.page_gap, rules.page_slots))
    starts = histories.split_times(paged, rules.valid_from, rules.test_from).to_polars().row(0, named=True)
    late = ibis.memtable({"item": _late_items(len(catalogue), rules.new_item_share)}, schema={"item": "int32"})
    kept = histories.without_late(paged, late, starts["valid_start"])
    users = kept.group_by("user_id").agg(first_row=kept.row.min())
    users = users.select("user_id", user=ibis.row_number().over(ibis.window(order_by="first_row")).cast("int32"))
    viewed = engine.create_table("viewed", histories.clicks_before(kept).join(users, "user_id"))
    final = histories.splits(viewed, **starts)
    order = ["timestamp", "request", *(["position"] if "position" in final.columns else []), "row"]
    known = [name for name in ("scene", "position", "conversion", "oracle") if name in final.columns]
    ours = ["user", "item", "user_id", "item_id", "timestamp", "click", "request", "clicks_before", "split", *known]
    final.order_by(order).select(ours).to_parquet(folder / "impressions.parquet")
    histories.user_clicks(viewed).order_by("user").to_parquet(folder / "clicks.parquet")

    items = ibis.memtable(catalogue)
    seen = viewed.group_by("item").agg(first_impression=viewed.timestamp.min())
    given = behaviour_log.seconds(items.first_seen) if "first_seen" in items.columns else ibis.null("int64")
    items = items.mutate(first_seen=given).left_join(seen, "item")
    items = items.mutate(first_seen=items.first_seen.coalesce(items.first_impression))
    items.order_by("item").drop("first_impression", "item_right").to_parquet(folder / "items.parquet")
    described = _describe(final, starts, len(catalogue), catalogue["image"].count())
    described["counts"]["rows_of_late_items"] = paged.count().execute() - described["counts"]["impressions"]
    return described


def _late_items(items: int, share: float) -> list[int]:
    return sorted(np.random.default_rng(0).choice(items, round(share * items), replace=False).tolist())


def _describe(final: ir.Table, starts: dict[str, int], items: int, items_with_image: int) -> dict[str, Any]:
    before = final.timestamp.lag().over(ibis.window(group_by="user_id", order_by="row"))
    ordered = final.mutate(backwards=(final.timestamp < before))
    facts = ordered.agg(
        users=ordered.user.nunique(),
        impressions=ordered.count(),
        clicks=ordered.click.sum(),
        requests=ordered.request.nunique(),
        empty_history=(ordered.clicks_before == 0).sum(),
        time_backwards=ordered.backwards.sum().coalesce(0),
        first=ordered.timestamp.min(),
        last=ordered.timestamp.max(),
        **{split: (ordered.split == split).sum() for split in SPLITS},
    )
    row = facts.to_polars().row(0, named=True)
    return {
        "counts": {"items": items, "items_with_image": items_with_image}
        | {name: value for name, value in row.items() if name not in ("first", "last", *SPLITS)},
        "time_range": [row["first"], row["last"]],
        "splits": starts | {split: row[split] for split in SPLITS},
    }


def write_dataset(
    out: str | Path,
    impressions: str | Path,
    items: pl.DataFrame,
    images: str | Path,
    rules: Rules | None = None,
    columns: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Check a log, an item list and their images, and write them as the dataset folder of :mod:`data_tools.schema`.

    Parameters
    ----------
    out : the folder to make; it appears whole or not at all
    impressions : .parquet, .csv or .csv.gz with user_id, item_id, timestamp, click and, where known, request_id (one
        page view of a user), scene, position, conversion (0, 1 or null) and oracle (true click probability)
    items : item_id, image (path relative to ``images``, or null) and, where known, title, category, first_seen; other
        columns are carried along. The dense index of an item is its row here, once repeated ids are set aside
    images : the folder of images; the usable ones are copied
    rules : page views, splits and limits
    columns : our names to those of the log, where they differ
    info : further keys of ``dataset.json``, such as source and licence

    Returns
    -------
    ``out``

    Raises
    ------
    UserError
        If ``out`` exists, the log cannot be read, or more than the borne share of rows or images is unusable.
    """
    out, impressions, images, rules = Path(out), Path(impressions), Path(images), rules or Rules()
    if not images.is_dir():
        raise UserError(f"the folder of images {images} does not exist")
    with files.whole_folder(out) as scratch, _engine(scratch, rules.memory) as engine:
        catalogue, items_aside = _unique_items(items)
        with console.status(f"reading {impressions}"):
            log, checked = _read_impressions(engine, impressions, columns or {}, catalogue)
            aside, rows_read = behaviour_log.count_reasons(checked), checked.count().execute()
            _stop_above(rules.max_bad_share, aside, rows_read, f"rows of {impressions}", "max_bad_share")
            if rows_read == sum(aside.values()):
                raise UserError(f"{impressions} holds no usable impression among its {rows_read} rows")
            behaviour_log.set_aside(log, checked).to_parquet(scratch / "set_aside.parquet")
            items_aside.write_parquet(scratch / "set_aside_items.parquet")

        copied, faults = copy_images(catalogue["image"].to_list(), images, scratch / "images")
        bad_images = dict(Counter(filter(None, faults)).most_common())
        _stop_above(rules.max_bad_image_share, bad_images, len(catalogue), f"images in {images}", "max_bad_image_share")
        paths = pl.Series("image", [name and f"images/{name}" for name in copied], pl.String)

        with console.status("histories, page views and splits"):
            good = checked.filter(checked.reason.isnull()).drop("reason")
            described = _write_tables(engine, good, catalogue.with_columns(paths), rules, scratch)
        described["counts"] |= {"rows_read": rows_read, "rows_set_aside": sum(aside.values())}
        by_request = "request_id" in good.columns
        how = (
            {"from": "request_id"} if by_request else {"from": "gap", "gap": rules.page_gap, "slots": rules.page_slots}
        )
        record = {
            "schema_version": SCHEMA_VERSION,
            **described,
            "set_aside": aside,
            "set_aside_items": dict(Counter(items_aside["reason"].to_list()).most_common()),
            "bad_images": bad_images,
            "page_views": how,
            "new_item_share": rules.new_item_share,
            **(info or {}),
            "fingerprint": files.digest(scratch / f"{name}.parquet" for name in ("items", "impressions", "clicks")),
        }
        files.write_json(scratch / "dataset.json", record)
    return out
