"""Tables of a dataset that a test changes, with digests that fit."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from data_tools.common.files import digest, read_json, write_json


def put_table(folder: Path, name: str, table: pl.DataFrame) -> None:
    """Write one of a dataset's tables in place of its own, or of a link to another's."""
    path = folder / f"{name}.parquet"
    path.unlink(missing_ok=True)
    table.write_parquet(path)
    info = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", info | {"tables": info.get("tables", {}) | {path.name: digest([path])}})
