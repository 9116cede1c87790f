"""A feature store as it is read: what it holds, and which rows a process owns. ``store`` describes the folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json
from data_tools.common.parquet import read_parquet
from downstream.ams.partition import Partition


@dataclass(frozen=True)
class FeatureStore:
    """A feature store on disk; :func:`open_store` reads it, and nothing of the features until a part is opened.

    Attributes
    ----------
    folder : where it lies
    count : number of items
    shape, dtype : of one feature
    parts : number of parts
    appended : of each appending: its ``count``, the digest of its ``ids``, and of its bytes in each part (``digests``)
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    parts: int
    appended: list[dict[str, Any]]

    @property
    def item_bytes(self) -> int:
        """Bytes of one feature."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def info(self) -> dict[str, Any]:
        """What a summary says of it, as ``EmbeddingTable.info``."""
        digests = [added["ids"] for added in self.appended]
        return {"count": self.count, "shape": list(self.shape), "dtype": self.dtype.name, "ids": digests}

    def ids(self) -> pl.Series:
        """Item ids as text, in the order of the rows.

        Raises
        ------
        UserError
            If a file of ids is missing or another than was written.
        """
        files = [self.folder / f"ids-{number:04d}.parquet" for number in range(len(self.appended))]
        for file, added in zip(files, self.appended, strict=True):
            if not file.exists():
                raise UserError(f"{file} is missing; it names {added['count']:,} items of the store")
            if digest([file]) != added["ids"]:
                raise UserError(f"{file} is not the file that store.json tells of; bring back the one written with it")
        return pl.concat([pl.Series("item_id", [], dtype=pl.String), *(read_parquet(f)["item_id"] for f in files)])

    def rows_of(self, item_ids: Sequence[Any]) -> np.ndarray:
        """Rows, int64 (M,), of items by id, compared as text; -1 where the store lacks the item."""
        known = pl.DataFrame({"item_id": self.ids()}).with_row_index("row")
        asked = pl.DataFrame({"item_id": [str(item) for item in item_ids]}, schema={"item_id": pl.String})
        found = asked.join(known, on="item_id", how="left", maintain_order="left")
        return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()

    def partition(self, rank: int = 0, processes: int = 1, verify: bool = True) -> Partition:
        """The parts that a process owns, memory-mapped; one process owns all.

        Raises
        ------
        UserError
            If there are fewer parts than processes, or files of this process are missing, too short, or, where
            ``verify``, of another digest; all of them are named.
        """
        if self.parts < processes:
            raise UserError(
                f"{self.folder} has {self.parts} parts for {processes} processes; make it with more --parts"
            )
        return Partition(self, range(rank, self.parts, processes), verify)


def open_store(folder: str | Path) -> FeatureStore:
    """Read ``store.json``.

    Raises
    ------
    UserError
        If there is none.
    """
    folder = Path(folder)
    if not (folder / "store.json").exists():
        raise UserError(f"no feature store at {folder}: a folder with store.json is expected")
    info = read_json(folder / "store.json")
    return FeatureStore(
        folder, info["count"], tuple(info["shape"]), np.dtype(info["dtype"]), info["parts"], info["appended"]
    )
