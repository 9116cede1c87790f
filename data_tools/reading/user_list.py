"""Tables of users as people have them: an id, and what is known of the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.reading import inputs
from data_tools.reading.columns import resolve_columns
from data_tools.reading.form import COMMA, POINT, Given, given_form
from data_tools.reading.ids import whole_ids
from data_tools.reading.inputs import BROKEN
from data_tools.reading.item_list import joined_parts, renamed

USER_COLUMNS = ("user_id",)
OURS = ("user", *USER_COLUMNS)  # in users.parquet


@dataclass(frozen=True, kw_only=True)
class UserTable(Checked):
    """What a command is told of a table of users.

    Attributes
    ----------
    user_table : str or null
        A table of users, one row per user, whose columns enter CTR models as features: a file, a folder or a glob.
    user_columns : str
        Our name for the id in the table of users, as in user_id=player.
    user_encoding : str
        As encoding, of the table of users.
    user_delimiter : str
        As delimiter, of the table of users.
    user_header : str
        As header, of the table of users.
    """

    user_table: str | None = None
    user_columns: str = ""
    user_encoding: str = ""
    user_delimiter: str = ""
    user_header: str = ""

    @property
    def user_form(self) -> Given:
        """What is said of the form of the table of users."""
        return given_form(self.user_encoding, self.user_delimiter, self.user_header)


@dataclass(frozen=True)
class UserList:
    """A table of users as it was read.

    Attributes
    ----------
    users : polars.DataFrame
        ``user_id`` and one column for each thing that is known of a user.
    place : str
        Where it was read from, for messages.
    broken : polars.DataFrame
        The lines that are no row.
    notes : list of str
        What was inferred about it, to be reported.
    """

    users: pl.DataFrame
    place: str
    broken: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BROKEN))
    notes: list[str] = field(default_factory=list)


def read_users(
    place: str | Path,
    named: Mapping[str, str],
    work: Path,
    given: Given | None = None,
    text: Collection[str] = (),
) -> UserList:
    """Read a table of users: a file, a folder or a glob of text, JSON lines or Parquet.

    Parameters
    ----------
    place : str or Path
    named : dict of str to str
        Our names -> those of the table.
    work : Path
        An empty folder for what is made on the way.
    given : Given, optional
        What a user says of the form of text.
    text : collection of str
        Columns, by their names in ``users.parquet``, that stay text even where all of their values are numbers.

    Raises
    ------
    UserError
        If the files cannot be read, lack the ids, or say nothing of a user.
    """
    expected = {*USER_COLUMNS, *named.values()}
    found = inputs.as_parquet(place, work, "users", expected=expected, given=given, every_key=True)
    if not found.rows:
        raise UserError(f"{place} has no users: it has no rows")
    columns = resolve_columns(named, list(found.columns), USER_COLUMNS, (), str(place))
    users = renamed(joined_parts(found, place), found, columns, text={*USER_COLUMNS, *text}, taken=OURS)
    users, more = whole_ids(users, "user_id", "the table of users")
    for name, kind in users.schema.items():
        if kind.is_nested() or kind == pl.Binary:
            raise UserError(f"{place}: column {name!r} is {kind}; must be one number or text a user")
    if users.width == 1:
        raise UserError(f"{place} has no column but the ids of users; a table of users says something of them")
    notes = [*found.notes, *more]
    for values in users.drop("user_id").iter_columns():
        given = values.drop_nulls()
        if given.dtype == pl.String and len(given) and given.str.contains(COMMA).all():
            notes.append(f"{values.name} is read as categories, such as {given[0]!r}: {POINT}")
    return UserList(users, str(place), found.broken, notes)
