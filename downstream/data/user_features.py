"""What is known of users, as codes: the columns of ``users.parquet``, one feature of a model each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from data_tools.common.parquet import read_parquet
from data_tools.reading.columns import free_names
from downstream.data.codes import FIRST_KNOWN, UNKNOWN, codes_of

USERS = "users.parquet"
PREFIX = "user:"  # of the names of such features
BINS, MOST_VALUES = 10, 32  # numbers of more values than that are put into as many equally full bins (ours)


def user_features(names: Iterable[str]) -> list[str]:
    """Of the names of a dataset's features, those that say what is known of users."""
    return [name for name in names if name.startswith(PREFIX)]


def user_feature_codes(folder: Path, trained: np.ndarray) -> tuple[np.ndarray, dict[str, pl.Series]]:
    """Codes of what is known of users.

    Parameters
    ----------
    folder : Path
        Of the dataset.
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
    users = read_parquet(folder / USERS).sort("user").drop("user", "user_id")
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
