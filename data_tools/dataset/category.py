"""A category made of one or several columns of the item list, as in ``product_type+section``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import polars as pl

from data_tools.common.errors import UserError


def with_category(items: pl.DataFrame, columns: str, named: Mapping[str, str], where: str) -> pl.DataFrame:
    """The item list with ``category``: the values of some of its columns, joined by " / ", null where all are empty.

    Parameters
    ----------
    items : polars.DataFrame
        The item list.
    columns : str
        Names as in the user's file, separated by "+".
    named : dict of str to str
        Our names -> those of the file, of the columns that were renamed.
    where : str
        The file, for messages.

    Raises
    ------
    UserError
        If there is no such column.
    """
    ours = {theirs: name for name, theirs in named.items()}
    parts = [ours.get(part.strip(), part.strip()) for part in columns.split("+")]
    # A column that differs from one of ours by case alone has an underscore behind its name by now.
    parts = [f"{part}_" if part not in items.columns and f"{part}_" in items.columns else part for part in parts]
    for part in parts:
        if part not in items.columns:
            nearest = difflib.get_close_matches(part, items.columns, n=1, cutoff=0.0)
            raise UserError(
                f"{where} has no column {part!r} (named for category, as in a+b); it has {items.columns}, the nearest "
                f"is {nearest[0]!r}"
            )
    text = [pl.col(part).cast(pl.String).fill_null("") for part in parts]
    some = pl.any_horizontal(part != "" for part in text)
    return items.with_columns(category=pl.when(some).then(pl.concat_str(text, separator=" / ")))
