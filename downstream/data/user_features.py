"""What is known of users, as codes: the columns of ``users.parquet``, one feature of a model each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.parquet import read_parquet, scan_parquet
from data_tools.reading.columns import free_names
from downstream.data.codes import FIRST_KNOWN, UNKNOWN, codes_of

USERS = "users.parquet"
PREFIX = "user:"  # of the names of such features
BINS, MOST_VALUES = 10, 32  # numbers of more values than that are put into as many equally full bins (ours)


def user_features(names: Iterable[str]) -> list[str]:
    """Of the names of a dataset's features, those that say what is known of users."""
    return [name for name in names if name.startswith(PREFIX)]


def read_user_features(table: Path) -> pl.DataFrame:
    """What a dataset's table of users says of them, in the order of the users."""
    return read_parquet(table).sort("user").drop("user", "user_id")


def text_features(table: Path) -> list[str]:
    """What a dataset's table of users says in text."""
    kinds = scan_parquet(table).collect_schema()
    return [name for name, kind in kinds.items() if kind in (pl.String, pl.Categorical, pl.Enum)]


def user_feature_codes(users: pl.DataFrame, trained: np.ndarray) -> tuple[np.ndarray, dict[str, pl.Series]]:
    """Codes of what is known of users.

    Parameters
    ----------
    users : polars.DataFrame
        A column for each thing that is known of users.
    trained : numpy.ndarray
        bool (users,), the users that a training impression in use shows: what is known, and where bins begin, is
        decided on these.

    Returns
    -------
    codes : numpy.ndarray
        int32 (users, features), 1 where a user's value is missing or was not shown in training.
    known : dict of str to polars.Series
        Feature -> its values as text, in the order of their codes.
    """
    # A dot has a meaning in the names of a model's parts.
    names = free_names([name.replace(".", "_") for name in users.columns], (), apart=True)
    codes, known = np.empty((len(trained), users.width), dtype=np.int32), {}
    for place, (column, name) in enumerate(zip(users, names.values(), strict=True)):
        codes[:, place], known[PREFIX + name] = _coded(column, trained)
    return codes, known


def _coded(values: pl.Series, trained: np.ndarray) -> tuple[np.ndarray, pl.Series]:
    if values.dtype.is_temporal():
        values = values.to_physical()
    if values.dtype.is_numeric():
        values = values.cast(pl.Float64).fill_nan(None)
        shown = values.filter(pl.Series(trained)).drop_nulls()
        if shown.n_unique() > MOST_VALUES:
            return _binned(values, shown)
    else:
        values = values.cast(pl.String)
    return codes_of(values, trained)


def _binned(values: pl.Series, shown: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Codes of the bins of numbers, equally full of those shown in training as far as ties allow."""
    edges = np.unique(np.quantile(shown.to_numpy(), np.arange(1, BINS) / BINS))
    bins = FIRST_KNOWN + np.searchsorted(edges, values.to_numpy(), side="right")
    bounds = pairwise(["-inf", *edges.tolist(), "inf"])
    known = pl.Series([f"{low} to {high}" for low, high in bounds])
    return np.where(values.is_null().to_numpy(), UNKNOWN, bins), known


def codes_of_others(table: Path, trained: np.ndarray, others: pl.DataFrame) -> np.ndarray:
    """Codes of users that a dataset does not have, int32 (n, features): what is known was decided on its own.

    Parameters
    ----------
    table : Path
        The dataset's own table of users.
    trained : numpy.ndarray
        bool (users,), as above.
    others : polars.DataFrame
        What is known of the other users; columns that the dataset's table of users lacks are left out.

    Raises
    ------
    UserError
        If no column has the name of one of the dataset's.
    """
    own = read_user_features(table)
    if not set(own.columns) & set(others.columns):
        raise UserError(
            f"the table of users says {others.columns} of them, but the run was trained on {own.columns}; name its "
            "columns as they were named there"
        )
    same = [others[name] if name in others.columns else pl.Series(name, [None] * len(others)) for name in own.columns]
    cast = [values.cast(own.schema[values.name], strict=False) for values in same]
    both = pl.concat([own, pl.DataFrame(cast)])
    return user_feature_codes(both, np.append(trained, np.zeros(len(others), dtype=bool)))[0][len(own) :]
