"""What a table says of users that a log to score has and the dataset has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from data_tools.common.errors import UserError
from data_tools.log.examples import alike_ids
from data_tools.reading.user_list import UserList
from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.data.user_features import codes_of_others, read_user_features


def check_user_table(table: str | Path | None, columns: Mapping[str, str], data: CTRData) -> None:
    """Raise a UserError if a table of users, or names of its columns, would have no effect on a run's scores."""
    if table is None and columns:
        raise UserError(f"columns of a table of users are named, {dict(columns)}, but there is no table: remove them")
    if table is not None and data.user_features is None:
        raise UserError(
            f"the run knows nothing of users but their ids and makes no use of {table}; leave --user-table out, or "
            "prepare the dataset with it and train again"
        )


def undescribed(users: pl.DataFrame, listed: UserList) -> list[str]:
    """What is worth saying where a table of users has none of the new users of a log."""
    new, known = users.filter(pl.col("known").is_null())["user_id"], listed.users["user_id"].cast(pl.String)
    if not len(new) or new.is_in(known.implode()).any():
        return []
    alike = alike_ids(new, known)
    return [
        f"{listed.place} has none of the {len(new):,} users that the dataset lacks" + (f"; {alike[1]}" if alike else "")
    ]


def _not_shown(said: pl.DataFrame, names: Sequence[str], codes: np.ndarray) -> list[str]:
    """What is worth saying of values that the training did not show, so that they count as missing."""
    notes = []
    for name, own in zip(names, codes.T, strict=True):
        if name not in said.columns:
            continue
        given = said[name].cast(pl.String).replace(["", "NaN"], None).filter(pl.Series(own == UNKNOWN)).drop_nulls()
        if len(given):
            count = f"{len(given):,} of {len(said):,} new users"
            notes.append(f"{name}: {count} have a value unknown to the run, such as {given[0]!r}")
    return notes


def with_new_users(
    joined: CTRData, trained_on: CTRData, users: pl.DataFrame, listed: UserList
) -> tuple[CTRData, list[str]]:
    """The data of a log with what a table says of its new users; those of the dataset keep what that says of them.

    What is worth saying of it comes with it.

    Parameters
    ----------
    joined : CTRData
        With the users of the log.
    trained_on : CTRData
        The dataset.
    users : polars.DataFrame
        ``user_id`` and ``known`` of the log's users, in their order.
    listed : UserList
        The table; of rows that repeat a user the first counts.

    Raises
    ------
    UserError
        If the table has no column that the run knows.
    """
    table = listed.users.with_columns(pl.col("user_id").cast(pl.String))
    table = table.unique("user_id", keep="first", maintain_order=True)
    trained = trained_on.user_code != UNKNOWN
    own = trained_on.dataset.table("users")
    codes = codes_of_others(own, trained, table.drop("user_id"))
    places = table.select("user_id", place=pl.int_range(pl.len()))
    found = users.join(places, on="user_id", how="left", maintain_order="left")["place"]
    new = (users["known"].is_null() & found.is_not_null()).to_numpy()
    features = joined.user_features.copy()
    rows = found.filter(pl.Series(new)).to_numpy().astype(np.int64)
    features[new] = codes[rows]
    notes = _not_shown(table[rows], read_user_features(own).columns, codes[rows])
    return replace(joined, user_features=features), notes
