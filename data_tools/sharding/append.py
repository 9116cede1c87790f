"""New items and new days added to a shard folder, without rewriting what it holds.

The pictures and the training requests of earlier writings stay as they are; new pictures, changed ones and later
training requests go into a separate folder. The requests of validation and test, and the table of
items, are rewritten: which page views are held out, and where a changed picture is, is another matter after each
writing.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.common.cli import UserError
from data_tools.common.parquet import read_parquet
from data_tools.common.storage import contents, is_url
from data_tools.dataset.schema import Dataset
from data_tools.sharding.files import files_of
from data_tools.sharding.planning import Held
from data_tools.sharding.tables import GroupedTable

SAID = ("title", "category")  # of items, in their table
READ_AT_ONCE = 4096  # pictures, to compare them with those that are held


def held_of(folder: Path, index: dict[str, Any], dataset: Dataset) -> Held:
    """What a shard folder holds of a dataset that is to be appended to it.

    Raises
    ------
    UserError
        If the training time range of the dataset ends before that of the shards.
    """
    since, start = index["train_until"], dataset.info["splits"]["valid_start"]
    if start < since:
        raise UserError(
            f"{folder} holds training requests up to time {since}, but training ends at {start} in {dataset.place}; "
            "append a dataset with later days, or write new shards"
        )
    table = GroupedTable(folder, index["table"])
    columns = ["item", "item_id", "source_crc32"]
    parts = [table.read(tar, shard["items"], columns) for tar, shard in enumerate(index["items"])]
    known = pl.from_arrow(pa.concat_tables(parts)).with_columns(pl.col("item_id").cast(pl.String))
    items = read_parquet(dataset.table("items"), columns=["item", "item_id", "image"])
    items = items.with_columns(pl.col("item_id").cast(pl.String))
    items = items.join(known.rename({"item": "number"}), on="item_id", how="left", maintain_order="left")
    new = items["number"].is_null().to_numpy()
    number = items["number"].fill_null(0).to_numpy().astype(np.int32)
    number[new] = index["next_item"] + np.arange(new.sum(), dtype=np.int32)
    if index["settings"].get("pictures") == "none":
        return Held(number, np.flatnonzero(new).astype(np.int32), since)
    pictured = items.filter(pl.col("image").is_not_null())
    found = pl.Series(_checksums([dataset.place / image for image in pictured["image"]]), dtype=pl.UInt32)
    written = pictured.filter(found.ne_missing(pictured["source_crc32"]))["item"].to_numpy().astype(np.int32)
    return Held(number, written, since)


def _checksums(paths: list[Path]) -> list[int]:
    if paths and is_url(paths[0]):
        return [zlib.crc32(data) for data in contents(paths)]
    found: list[int] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), READ_AT_ONCE):
            found += pool.map(lambda path: zlib.crc32(path.read_bytes()), paths[start : start + READ_AT_ONCE])
    return found


def check_held(folder: Path, index: dict[str, Any], held: str, dataset: Dataset) -> None:
    """Refuse a dataset whose earlier training requests are not those that the shards hold.

    Raises
    ------
    UserError
        If they differ.
    """
    if held != index["trained"]:
        raise UserError(
            f"the training page views of {dataset.place} before time {index['train_until']} are not those that "
            f"{folder} holds; only later days and new items can be appended: write new shards"
        )


def item_tables(
    folder: Path, index: dict[str, Any], replaced: pa.Array, dataset: Dataset
) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each tar of an index that still has pictures in use, and its rows of the table of items, said as today."""
    table, items = GroupedTable(folder, index["table"]), _said_of_items(dataset)
    for number, shard in enumerate(index["items"]):
        rows = table.read(number, shard["items"])
        rows = rows.filter(pc.invert(pc.is_in(rows["item"], replaced)))
        if rows.num_rows:
            rows = _restated(rows, items)
            yield {**shard, "items": rows.num_rows, "image_bytes": pc.sum(rows["length"]).as_py()}, rows


def _said_of_items(dataset: Dataset) -> pl.DataFrame:
    """The ids of a dataset's items, as text, and what it says of each."""
    file = dataset.table("items")
    columns = [name for name in SAID if name in pl.scan_parquet(file, glob=False).collect_schema().names()]
    return read_parquet(file, columns=["item_id", *columns]).with_columns(pl.col("item_id").cast(pl.String))


def _restated(rows: pa.Table, items: pl.DataFrame) -> pa.Table:
    """Rows of a table of items with today's titles and categories; those of items that are gone stay."""
    key = pl.from_arrow(rows["item_id"]).cast(pl.String).rename("item_id").to_frame()
    now = key.join(items.with_columns(listed=True), on="item_id", how="left", maintain_order="left")
    for name in items.columns[1:]:
        before = (
            pl.from_arrow(rows[name]) if name in rows.column_names else pl.Series([None] * len(now), dtype=pl.String)
        )
        column = now.select(pl.when(pl.col("listed")).then(pl.col(name)).otherwise(before.cast(now[name].dtype)))
        at = rows.column_names.index(name) if name in rows.column_names else None
        values = column.to_series().to_arrow()
        if at is None:
            rows = rows.append_column(name, values)
        else:
            rows = rows.set_column(at, name, values.cast(rows.schema.field(at).type))
    return rows


def fingerprint(index: dict[str, Any]) -> str:
    """A digest of what a shard folder holds: that of all of its files' digests."""
    digests = json.dumps([shard["digest"] for shard in files_of(index)]).encode()
    return hashlib.blake2b(digests, digest_size=16).hexdigest()
