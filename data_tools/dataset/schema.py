"""The dataset folder: what ``prepare`` and ``world`` write and every later stage reads.

=====================  ===============================================================================================
``items.parquet``      item (int32, the row), item_id (as given), image (path in the folder or null), images? (list of
                       paths, image the first: only where items have several pictures), title?, category?, first_seen
                       (time of the first impression unless given) and any further columns
``impressions.parquet``  user, item (int32 rows of clicks and items), user_id, item_id (as given), timestamp (int64),
                       click (int8), request (int64, one page view), clicks_before (int32), split ("train", "valid"
                       or "test") and, where known, scene, position, conversion, oracle (true click probability),
                       sampled (drawn for a click: only in datasets made of clicks alone)
``clicks.parquet``     user (int32, the row), user_id, items (list of int32), timestamps (list of int64), oldest first
``users.parquet``        user (int32, the row), user_id and what a table of users says of them; only where one was given
``near_duplicates.parquet``  item, first (int32): of items that share nearly the same picture, the first of them; only
                       where such were looked for
``dataset.json``       schema version, counts, set_aside (reason -> rows), time range and unit, splits, labels (rating
                       threshold, unclicked items drawn), source, the digest of each table, fingerprint
``set_aside*.parquet``  rows of the log, lines that are no row, items and users that are of no use, each with its reason
=====================  ===============================================================================================

The history of an impression is not stored: it is ``clicks[user].items[:clicks_before]``, cut to the last H.
``clicks_before`` counts the user's clicks *strictly* before the impression's timestamp; with
same_time_history, also those of the same timestamp that a drawn order puts before it.
Impressions are ordered by (timestamp, request, position or order in the log).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.cache import mirrored
from data_tools.common.errors import UserError, seen_from
from data_tools.common.files import check_digests, read_json
from data_tools.common.parquet import read_parquet
from data_tools.common.storage import exists, read

SCHEMA_VERSION = 1
AGAIN = "make the dataset again with python -m data_tools.prepare"
SPLITS = ("train", "valid", "test")
DAYS = {"seconds": 86_400, "milliseconds": 86_400_000}  # unit of times -> how many a day has
REQUIRED = {
    "items": ("item", "item_id", "image", "first_seen"),
    "impressions": ("user", "item", "user_id", "item_id", "timestamp", "click", "request", "clicks_before", "split"),
    "clicks": ("user", "user_id", "items", "timestamps"),
}
OPTIONAL = ("users.parquet", "near_duplicates.parquet")


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, its tables read on first use.

    Attributes
    ----------
    place : Path
        Where it is: a folder or a URL.
    """

    place: Path

    @cached_property
    def folder(self) -> Path:
        """A folder of this machine with its tables; of one at a URL, their copies in the cache."""
        names = ["dataset.json", *(f"{name}.parquet" for name in REQUIRED)]
        folder = mirrored(self.place, [*names, *filter(lambda name: exists(self.place / name), OPTIONAL)])
        for name in REQUIRED:
            _check_whole(folder / f"{name}.parquet")
        return folder

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``dataset.json``."""
        return read_json(self.place / "dataset.json")

    @property
    def day(self) -> int | None:
        """How many units of the log's times a day has; None where they say the order alone."""
        return DAYS.get(self.info.get("time_unit", "seconds"))

    def picture(self, image: str) -> bytes:
        """The bytes of a picture's file."""
        return read(self.place / image)

    def table(self, name: str) -> Path:
        """A table's file on this machine, whose digest each process compares once.

        Raises
        ------
        UserError
            If it is not as it was written. Of datasets that record no digests, nothing is known.
        """
        path = self.folder / f"{name}.parquet"
        if promised := self.info.get("tables", {}).get(path.name):
            stat = path.stat()
            _check_unchanged(path, promised, stat.st_size, stat.st_mtime_ns)
        return path

    def _table(self, name: str) -> pl.DataFrame:
        path = self.table(name)
        table = read_parquet(path)
        missing = [column for column in REQUIRED[name] if column not in table.columns]
        if missing:
            raise UserError(f"{path} lacks the columns {missing}; {AGAIN}")
        return table

    @cached_property
    def items(self) -> pl.DataFrame:
        return self._table("items")

    @cached_property
    def impressions(self) -> pl.DataFrame:
        return self._table("impressions")

    @cached_property
    def clicks(self) -> pl.DataFrame:
        return self._table("clicks")

    @cached_property
    def first_alike(self) -> np.ndarray | None:
        """Of each item the first with nearly the same picture, int32 (items,); None where none were looked for."""
        if self.info.get("near_duplicates") is None or not (self.folder / "near_duplicates.parquet").exists():
            return None
        near = read_parquet(self.table("near_duplicates"))
        first = np.arange(self.info["counts"]["items"], dtype=np.int32)
        first[near["item"].to_numpy()] = near["first"].to_numpy()
        return first


@cache
def _check_unchanged(path: Path, promised: str, _size: int, _changed: int) -> None:
    """Compare a table's digest, once for each state of the file in this process."""
    check_digests({path: promised}, "dataset.json", f"copy it again, or {AGAIN}")


def _check_whole(path: Path) -> None:
    """Raise a UserError if a table is missing or cut."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is missing or damaged: {reason}; copy it again, or {AGAIN}") from None


def open_dataset(folder: str | Path) -> Dataset:
    """Open a dataset folder.

    Raises
    ------
    UserError
        If the folder is not a dataset, or has another version of the format.
    """
    dataset = Dataset(Path(folder))
    if not exists(dataset.place / "dataset.json"):
        raise UserError(
            f"{folder} has no dataset.json{seen_from(folder)}; make a dataset with: python -m data_tools.prepare --help"
        )
    found = dataset.info.get("schema_version")
    if found != SCHEMA_VERSION:
        raise UserError(f"{folder} has schema version {found}, but this program reads {SCHEMA_VERSION}; {AGAIN}")
    return dataset
