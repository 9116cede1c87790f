"""What is known of a log's users, from a table of users: ``users.parquet``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.hints import hint
from data_tools.common.parquet import read_parquet
from data_tools.dataset.rules import Rules, refuse_above
from data_tools.log.examples import alike_ids, broken_examples, item_examples
from data_tools.reading.columns import free_names
from data_tools.reading.user_list import UserList

SHOWN = 3  # ids, in a message


def _text(ids: pl.Series, rules: Rules) -> pl.Series:
    """Ids as they are compared: as text, as :class:`Rules` says of blanks."""
    text = ids.cast(pl.String)
    return text if rules.match_ids == "exact" else text.str.strip_chars()


def write_users(listed: UserList, rules: Rules, folder: Path) -> dict[str, int]:
    """Write ``users.parquet``, a row a user of ``clicks.parquet``, and the rows that are of no use; count both.

    Parameters
    ----------
    listed : UserList
        The table of users; its users that the log does not have are left out.
    rules : Rules
        How ids are compared, and how much bad input is allowed.
    folder : Path
        Of the dataset.

    Returns
    -------
    dict of str to int
        ``users_described``: users of the log that the table has.

    Raises
    ------
    UserError
        If too many rows have no id or repeat one, or the table has no user of the log.
    """
    # Names that no column of a user's has: a table may well have columns that are called key and known.
    users = listed.users.with_columns(__key__=_text(listed.users["user_id"], rules))
    key = users["__key__"]
    missing = key.is_null() | (key.str.strip_chars() == "")
    good = ~missing & key.is_first_distinct()
    reason = pl.select(pl.when(missing).then(pl.lit("user_id missing")).otherwise(pl.lit("user_id repeated")))
    bad = users.drop("__key__").rename(free_names(users.columns, ("reason",)))
    bad = bad.insert_column(0, reason.to_series().alias("reason")).filter(~good)
    bad.write_parquet(folder / "set_aside_users.parquet")
    counts = dict(Counter(bad["reason"].to_list()) + Counter(listed.broken["reason"].to_list()))
    read, shown = len(users) + len(listed.broken), item_examples(bad) | broken_examples(listed.broken)
    refuse_above(rules.max_bad_share, counts, read, f"rows of {listed.place}", "max_bad_share", shown)

    own = read_parquet(folder / "clicks.parquet", columns=["user", "user_id"]).sort("user")
    known = users.filter(good).drop("user_id")
    found = own.with_columns(__key__=_text(own["user_id"], rules)).join(
        known.with_columns(__known__=True), on="__key__", how="left", maintain_order="left"
    )
    described = int(found["__known__"].fill_null(False).sum())
    if not described:
        here, there = known["__key__"].head(SHOWN).to_list(), own["user_id"].head(SHOWN).to_list()
        alike = alike_ids(known["__key__"], _text(own["user_id"], rules))
        raise UserError(
            f"{listed.place} has no user of the log: its ids are such as {here}, those of the log such as {there}; "
            + (alike[1] if alike else "say which column has them, as in user_id=player" + hint(" of --user-columns"))
        )
    found.drop("__key__", "__known__").write_parquet(folder / "users.parquet")
    return {"users_described": described}
