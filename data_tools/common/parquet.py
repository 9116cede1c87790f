"""Parquet files read by their very path: never as a pattern, and never with columns made of folder names.

By default polars and DuckDB read brackets in a path as a pattern and a folder ``click=1`` as a column. All
of the project's own files are read through here.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import polars as pl


def scan_parquet(path: str | Path) -> pl.LazyFrame:
    """As :func:`polars.scan_parquet`, of one file."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """As :func:`polars.read_parquet`, of one file; all of its columns unless some are named."""
    return pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False)


def parquet_table(backend: Any, paths: Sequence[Path], **options: Any) -> ir.Table:
    """Files as a table of an ibis DuckDB backend; further ``options`` are those of DuckDB's ``read_parquet``."""
    return backend.read_parquet(list(map(engine_path, paths)), hive_partitioning=False, **options)


def engine_path(path: str | Path) -> str:
    """A path as DuckDB takes it, which reads patterns."""
    return glob.escape(str(path))


def sql_name(name: str) -> str:
    """A column's name in DuckDB's SQL."""
    return '"' + name.replace('"', '""') + '"'


def sql_text(value: str | Path) -> str:
    """A text in DuckDB's SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_table(paths: Sequence[Path], **options: bool) -> str:
    """Parquet files in DuckDB's SQL; further ``options`` are those of its ``read_parquet``."""
    files = ", ".join(sql_text(engine_path(path)) for path in paths)
    return (
        f"read_parquet([{files}], hive_partitioning = false"
        + "".join(f", {name} = {str(value).lower()}" for name, value in options.items())
        + ")"
    )
