"""What the converters of public data sets share: what one is, what it gives back, and how it finds its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.parquet import sql_text
from data_tools.dataset.read_log import Log
from data_tools.reading import lines
from data_tools.reading.form import DELIMITERS, Form
from data_tools.reading.inputs import BROKEN
from data_tools.reading.item_list import read_items
from data_tools.reading.opened import below, suffix


@dataclass(frozen=True)
class Source:
    """A public data set in the form that ``prepare`` takes.

    Attributes
    ----------
    log : Log
        Where the log is and which column is which.
    items : polars.DataFrame
        The item list.
    images : Path or None
        The folder of pictures.
    name, licence : str
        For the record.
    rules : dict
        Settings of :class:`data_tools.dataset.rules.Rules` that these data need, unless the caller sets them.
    broken : polars.DataFrame
        Lines of the item list that are no item.
    table : tuple, optional
        Ids, vectors and description of an embedding table that the owners publish instead of pictures.
    """

    log: Log
    items: pl.DataFrame
    images: Path | None
    name: str
    licence: str
    rules: Mapping[str, Any] = field(default_factory=dict)
    broken: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BROKEN))
    table: tuple[np.ndarray, np.ndarray, dict[str, Any]] | None = None


class Converter(ABC):
    """A public data set: reads the files of its owners.

    The first line of a converter's docstring is its line in ``--help``; a dataclass ``Settings`` inside it, where there
    is one, holds its options.

    Parameters
    ----------
    options : Settings, optional
        The options chosen; None for a converter without any.
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def read(self, files: Path, work: Path) -> Source:
        """Find the data set's files and say which column is which.

        Parameters
        ----------
        files : Path
            The folder of the files, at any depth.
        work : Path
            An empty folder for what is made on the way.

        Raises
        ------
        UserError
            If a file is missing or not as its owners describe it.
        """


def find(files: Path, patterns: str | Sequence[str], what: str) -> Path:
    """The one file or folder below ``files`` that a glob names, of several globs the first that finds any.

    Raises
    ------
    UserError
        If there is none, or more than one.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        found = below(files, pattern)
        if len(found) > 1:
            raise UserError(f"{files} has several {pattern} ({what}): {', '.join(map(str, found))}; keep one")
        if found:
            return found[0]
    raise UserError(f"{files} has no {' or '.join(patterns)} ({what}); put the owners' files there")


def find_with(files: Path, columns: Collection[str], what: str) -> Path:
    """The one CSV below ``files`` whose header has ``columns``.

    Raises
    ------
    UserError
        If there is none, or more than one.
    """
    named = {
        path: lines.header(path, DELIMITERS[suffix(path)], "utf-8-sig")
        for path in below(files, "*.csv*")
        if suffix(path) in DELIMITERS
    }
    found = [path for path, header in named.items() if set(columns) <= set(header)]
    if len(found) != 1:
        seen = {str(path): header for path, header in named.items()}
        raise UserError(
            f"{files} has {len(found)} CSV files with the columns {', '.join(sorted(columns))} ({what}); one is "
            f"expected. Found: {seen}"
        )
    return found[0]


def folder(files: Path, *names: str) -> Path | None:
    """The first of some folders that exists below ``files``."""
    return next((path for name in names for path in sorted(files.rglob(name)) if path.is_dir()), None)


def listed(
    place: Path, named: Mapping[str, str], work: Path, form: Form | None = None, wanted: Collection[str] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """An item list and its broken lines, as :func:`data_tools.reading.item_list.read_items` reads them."""
    into = work / "list"
    into.mkdir()
    found = read_items(place, named, into, form, wanted)
    return found.items, found.broken


def copy(sql: str, out: Path, work: Path, parameters: Sequence[Any] = ()) -> None:
    """Write the result of some SQL as Parquet; see :func:`query`."""
    query(f"COPY ({sql}) TO {sql_text(out)} (FORMAT parquet)", work, parameters)


def query(sql: str, work: Path, parameters: Sequence[Any] = ()) -> pl.DataFrame:
    """The result of some SQL in DuckDB, which spills into ``work``.

    Raises
    ------
    UserError
        If a file cannot be read or lacks a column.
    """
    try:
        with duckdb.connect(config={"temp_directory": str(work / "spill"), "memory_limit": "4GB"}) as engine:
            found = engine.sql(sql, params=list(parameters))
            return pl.from_arrow(found.arrow()) if found is not None else pl.DataFrame()
    except duckdb.Error as error:
        reason = str(error).partition("\nLINE ")[0].strip()  # DuckDB quotes the SQL
        raise UserError(f"the files are not as their owners describe them: {reason}") from error
