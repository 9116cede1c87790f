"""The tables of the layout "catalogue": requests and items as Parquet.

``requests-<split>-*.parquet``
    One row a request, one row group a group of requests that batches are cut from: ``request``, ``split``,
    ``category``, ``history``, ``fresh``, ``page``, ``click``, ``oracle`` (where known) and ``seen``, as the records of
    the layout "streaming".
``items.parquet``
    One row a pictured item, one row group a tar: ``item``, ``item_id``, ``title`` and ``category`` (where known), and
    the place of its picture: ``tar`` (row of the index's ``items``), ``offset``, ``length`` and ``crc32`` of its bytes,
    and ``source_crc32``, that of the picture's file in the dataset. Where items have several pictures, each further one
    has a row behind its item's, with a number of its own for ``item`` and the item's in ``of``, null elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.cache import local
from data_tools.common.cli import UserError
from data_tools.common.files import digest
from data_tools.sharding.files import COPY_AGAIN, check_shard

PLACE = {
    "tar": pa.int32(),
    "offset": pa.int64(),
    "length": pa.int32(),
    "crc32": pa.uint32(),
    "source_crc32": pa.uint32(),
}


def write_groups(path: Path, groups: Iterable[pa.Table]) -> dict[str, Any]:
    """Write tables of one schema as row groups of a Parquet file and describe it: file, bytes, digest."""
    writer = None
    try:
        for group in groups:
            if writer is None:
                writer = pq.ParquetWriter(path, group.schema, compression="zstd")
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    finally:
        if writer is not None:
            writer.close()
    return {"file": path.name, "bytes": path.stat().st_size, "digest": digest([path])}


def lists(lengths: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """Values, list after list, as a column of lists of some lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


class GroupedTable:
    """A Parquet file read one row group at a time, in any process, each of which compares its digest once.

    Parameters
    ----------
    folder : Path
        The shard folder.
    described : dict of str to any
        What its index says of the file.
    """

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        self.path, self.digest = folder / described["file"], described["digest"]
        self._file: pq.ParquetFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, group: int, rows: int, columns: list[str] | None = None) -> pa.Table:
        """Read a row group of as many rows as the index promises.

        Raises
        ------
        UserError
            If it is damaged or holds another number of rows.
        """
        table = self._opened().read_row_group(group, columns=columns, use_threads=False)
        if table.num_rows != rows:
            raise UserError(
                f"{self.path} has {table.num_rows} rows in its row group {group}, the index promises {rows}; "
                f"{COPY_AGAIN}"
            )
        return table

    def has(self, column: str) -> bool:
        """Whether the table has a column."""
        return column in self._opened().schema_arrow.names

    def _opened(self) -> pq.ParquetFile:
        if self._file is None:
            path = local(self.path)
            check_shard(path, self.digest)
            self._file = pq.ParquetFile(path)
        return self._file
