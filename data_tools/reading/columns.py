"""Which column is which: our names for those of a log or of an item list."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from data_tools.common.cli import UserError
from data_tools.common.hints import hint
from data_tools.common.lists import comma_separated

LOG_COLUMNS = ("user_id", "item_id", "timestamp", "click")
LOG_OPTIONAL = ("rating", "request_id", "scene", "position", "conversion", "oracle")
ITEM_COLUMNS = ("item_id",)
ITEM_OPTIONAL = ("image", "title", "category", "first_seen")


def _nearest(name: str, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest is '{matches[0]}'" if matches else "there are none"


def parse_columns(given: Mapping[str, str] | str, option: str, known: Collection[str]) -> dict[str, str]:
    """Read "user_id=player,click=liked" as {our name: the file's name}, or check such a dict.

    A pair with a comma stands in double quotes.

    Raises
    ------
    UserError
        If a part is no pair, or our name is unknown or given twice.
    """
    columns: dict[str, str] = {}
    parts = comma_separated(given) if isinstance(given, str) else [f"{ours}={theirs}" for ours, theirs in given.items()]
    for part in filter(None, parts):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (equals and ours and theirs):
            comma = ""
            if columns and not equals:
                last = "=".join(next(reversed(columns.items())))
                comma = f"""; if a name holds a comma, put quotes round it: '"{last}, {part}"'"""
            raise UserError(f"{option}: '{part}' is not of the form name=column, as in user_id=player{comma}")
        if ours not in known:
            turned = f"; our name comes first: {theirs}={ours}?" if theirs in known else ""
            raise UserError(
                f"{option}: unknown name '{ours}' in '{part}'; known are {list(known)}, {_nearest(ours, known)}{turned}"
            )
        if ours in columns:
            raise UserError(f"{option}: '{ours}' is given twice, as '{columns[ours]}' and as '{theirs}'")
        columns[ours] = theirs
    return columns


def resolve_columns(
    named: Mapping[str, str],
    found: Collection[str],
    required: Collection[str],
    optional: Collection[str],
    where: str,
) -> dict[str, str]:
    """Our names to those of a file: as ``named``, else a column that already has our name.

    Raises
    ------
    UserError
        If a named column or a required one is not among those ``found`` in the file.
    """
    for ours, theirs in named.items():
        if theirs not in found:
            raise UserError(
                f"{where} has no column '{theirs}' (named for {ours}); it has {list(found)}, {_nearest(theirs, found)}"
                f"{no_header(found)}"
            )
    columns = {ours: ours for ours in (*required, *optional) if ours in found} | dict(named)
    for ours in required:
        if ours not in columns:
            raise UserError(
                f"{where} has no column '{ours}'; it has {list(found)}; say which one it is: "
                f"{_likely(required, columns, found)}{no_header(found, unknown=not columns)}"
            )
    return columns


def _likely(required: Iterable[str], known: Mapping[str, str], found: Collection[str]) -> str:
    """How to name the columns that are missing: those that are spelt otherwise (USER_ID, userId), or COLUMN."""

    def plain(name: str) -> str:
        return re.sub(r"[\W_]", "", name).lower()

    spelt = {plain(name): name for name in found}
    return ",".join(f"{ours}={spelt.get(plain(ours), 'COLUMN')}" for ours in required if ours not in known)


def no_header(found: Iterable[str], unknown: bool = False) -> str:
    """What to do where the names of columns look like values, numbers among them, or are all ``unknown``."""
    found = list(found)
    if len(found) == 1 and len(re.split("[,;\t]", str(found[0]))) > 2:
        return """; if its lines stand in quotes: sed 's/^"//; s/"\\r*$//; s/""/"/g' OLD.csv > NEW.csv"""
    if len(found) == 1 and len(str(found[0]).split()) > 2:
        return hint("; if blanks stand between its columns: --delimiter ' '")
    values = r"-?[0-9]+([.][0-9]+)?(_[0-9]+)?|.*(://|[\[{]).*"
    if not unknown and not any(re.fullmatch(values, str(name).strip()) for name in found):
        return ""
    said = hint("; if its first line is no header, name its columns: --header a,b,c")
    return said + (hint(" (--item-header for an item list)") if said else "")


def free_names(names: Iterable[str], taken: Collection[str], apart: bool = False) -> dict[str, str]:
    """Name -> a name that is not taken, whatever the case: with as many underscores behind as it needs.

    Where ``apart``, no two of the names differ by case alone either.
    """
    names, closed = list(names), {name.lower() for name in taken}
    used, free = closed | {name.lower() for name in names}, {}
    for name in names:
        other = name
        if name.lower() in closed:
            while other.lower() in used:
                other += "_"
            used.add(other.lower())
        free[name] = other
        closed |= {name.lower()} if apart else set()
    return free
