"""Logs with one row a page view: lists of items and of labels, brought to one row an impression.

Understood are list columns, lists in JSON or as Python writes them, MIND's ``N1-1 N2-0``, and text with the same number
of items and of labels between blanks, commas, semicolons or pipes. A page view without a request_id gets one. Where a
row lists users, too, it is no page view but several impressions, as in JSON written column by column.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.parquet import sql_name, sql_table, sql_text
from data_tools.reading.inputs import BROKEN, Found
from data_tools.reading.parts import Part

LABELS = ("click", "rating")
SEPARATORS = {r"\s+": "blanks", r"\s*,\s*": "commas", r"\s*;\s*": "semicolons", r"\s*\|\s*": "pipes"}
LABEL = r"(?:-?[0-9.]+|true|false)"
PAIRS = r"^\S+-[01](?:\s+\S+-[01])*$"
UNEVEN = "lists of different lengths, or empty"
SHOWN = 1000  # characters of such a row


def unfolded(found: Found, named: Mapping[str, str], expected: Collection[str], folder: Path, memory: str) -> Found:
    """The log with one row an impression, where it has one a page view; otherwise as it is.

    Parameters
    ----------
    found : Found
    named : dict of str to str
        Our names -> those of the log, where they differ.
    expected : collection of str
        The columns of the log that matter; no others are in what is made.
    folder : Path
        Where the files go that are made.
    memory : str
        What DuckDB takes.

    Raises
    ------
    UserError
        If the items are lists and the labels are not.
    """
    ours = {name: found.columns.get(named.get(name, name)) for name in ("user_id", "item_id", "request_id", *LABELS)}
    users = {new: user for user, new in found.columns.items() if user in expected}
    if ours["item_id"] is None:
        return found
    with duckdb.connect(config={"temp_directory": str(folder / "spill"), "memory_limit": memory}) as engine:
        table = _Table(engine, found.parts, list(users))
        lists, said = table.lists(ours["item_id"], ours["click"] or ours["rating"])
        if not lists:
            return found
        # A page view is of one user: where there are several, a row holds columns of a log, or a part of it.
        views = ours["user_id"] not in lists
        request = views and ours["request_id"] is None
        parts, broken, before = [], [found.broken], 0
        for number, part in enumerate(found.parts):
            out = folder / f"impressions-{number:06d}.parquet"
            bad = table.unfold(part, lists, before, out, request=request)
            rows = [(UNEVEN, str(part.source), row + 1, text[:SHOWN]) for row, text in bad]
            broken.append(pl.DataFrame(rows, BROKEN, orient="row"))
            names = frozenset(pq.read_schema(out).names) - part.keys.keys()
            parts.append(replace(part, path=out, names=names, unfolded=True))
            before += pq.read_metadata(part.path).num_rows
    made = [*users, *(name for name in lists if name not in users), *(["request_id"] if request else [])]
    columns = {users.get(name, named.get(name, name)): name for name in made}
    said = f"one row {'a page view' if views else 'for several impressions'}: {said}"
    return Found(parts, columns, pl.concat(broken), [*found.notes, said])


@dataclass(frozen=True)
class _Table:
    """Parts of a log in DuckDB, and those of its columns that matter."""

    engine: duckdb.DuckDBPyConnection
    parts: Sequence[Part]
    columns: Sequence[str]

    def lists(self, item: str, label: str | None) -> tuple[dict[str, str], str]:
        """Name -> SQL of its list, of the columns that hold a list a row, and how they do; none in a usual log."""
        kinds: dict[str, pa.DataType] = {}
        for part in self.parts:
            schema = pq.read_schema(part.path)
            kinds |= dict(zip(schema.names, schema.types, strict=True))
        listed = {name: sql_name(name) for name in self.columns if name in kinds and _is_list(kinds[name])}
        if item in listed:
            if label is not None and label not in listed:
                raise UserError(f"column '{item}' holds lists, '{label}' does not; it must hold a label for each item")
            return listed, f"{item} holds lists"
        if not _is_text(kinds.get(item)):
            return {}, ""
        return self._of_pairs(item) if label is None else self._of_text(item, label, kinds)

    def _all(self, condition: str, item: str) -> bool:
        """Whether something holds of all rows with an item."""
        table = sql_table([part.path for part in self.parts], union_by_name=True)
        counted = f"count(*), count(*) FILTER (WHERE ({condition}) IS NOT FALSE)"
        query = f"SELECT {counted} FROM {table} WHERE trim({sql_name(item)}) <> ''"
        rows, matching = self.engine.execute(query).fetchall()[0]
        return 0 < rows == matching

    def _of_pairs(self, item: str) -> tuple[dict[str, str], str]:
        """Items and labels in one column, as in ``N1-1 N2-0``."""
        text = f"trim({sql_name(item)})"
        if not self._all(f"regexp_matches({text}, {sql_text(PAIRS)})", item):
            return {}, ""
        if self._all(f"NOT regexp_matches({text}, '\\s')", item):
            return {}, ""  # an item a row
        items = rf"string_split_regex(regexp_replace({text}, '-[01](\s|$)', '\1', 'g'), '\s+')"
        labels = rf"regexp_extract_all({text}, '-([01])(?:\s|$)', 1)"
        return {item: items, "click": labels}, f"{item} holds items and labels, as in N1-1 N2-0"

    def _of_text(self, item: str, label: str, kinds: Mapping[str, pa.DataType]) -> tuple[dict[str, str], str]:
        """Lists written as text in a column of items and one of labels, and in others that go with them."""
        if not _is_text(kinds[label]) or self._all(f"regexp_matches(trim({sql_name(label)}), '^[^\\s,;|\\[]*$')", item):
            return {}, ""
        texts = [name for name in self.columns if _is_text(kinds.get(name))]

        def even(lists: Mapping[str, str], name: str) -> str:
            return f"(len({lists[name]}) = len({lists[item]})) IS TRUE"

        brackets = " AND ".join(f"regexp_matches(trim({sql_name(name)}), '^\\[.*\\]$')" for name in (item, label))
        lists, said = {name: _from_json(name) for name in texts}, "lists in brackets"
        if not self._all(brackets, item):
            fitting = (one for one in SEPARATORS if self._all(_labels_between(label, one), item))
            if (pattern := next(fitting, None)) is None:
                return {}, ""
            said = SEPARATORS[pattern]
            lists = {name: f"string_split_regex(trim({sql_name(name)}), {sql_text(pattern)})" for name in texts}
            if not self._all(f"{sql_name(label)} IS NULL OR {even(lists, label)}", item):
                return {}, ""
        chosen = {name: lists[name] for name in texts if name in (item, label) or self._all(even(lists, name), item)}
        return chosen, f"{', '.join(chosen)} hold several values ({said})"

    def unfold(
        self, part: Part, lists: Mapping[str, str], before: int, out: Path, *, request: bool
    ) -> list[tuple[int, str]]:
        """Write a part with one row an impression; number and items of the rows whose lists do not fit together.

        Parameters
        ----------
        part : Part
        lists : dict of str to str
            Name -> SQL of its list.
        before : int
            Rows of the parts above.
        out : Path
        request : bool
            Whether each row is numbered as a page view (``request_id``).
        """
        kept = [name for name in self.columns if name in part.names and name not in lists]
        own = {name: sql for name, sql in lists.items() if name in part.names or name == "click"}
        lengths = [f"len({sql})" for sql in own.values()]
        even = " AND ".join(f"{length} > 0 AND {length} = {lengths[0]}" for length in lengths)
        chosen = [*map(sql_name, kept), *(f"unnest({sql}) AS {sql_name(name)}" for name, sql in own.items())]
        chosen += [f"file_row_number + {before} AS request_id"] if request else []
        table = sql_table([part.path], file_row_number=True)
        self.engine.execute(
            f"COPY (SELECT {', '.join(chosen)} FROM {table} WHERE {even}) TO {sql_text(out)} (FORMAT parquet)"
        )
        item = sql_name(next(iter(lists)))
        bad = f"SELECT file_row_number, {item}::VARCHAR FROM {table} WHERE ({even}) IS NOT TRUE ORDER BY 1"
        return [(row, text or "") for row, text in self.engine.execute(bad).fetchall()]


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _from_json(name: str) -> str:
    """SQL of a list that is written in JSON, or with the quotes of Python."""
    text = sql_name(name)
    double = f"CASE WHEN contains({text}, '\"') THEN {text} ELSE replace({text}, '''', '\"') END"
    return f"from_json(TRY_CAST({double} AS JSON), '[\"VARCHAR\"]')"


def _labels_between(label: str, separator: str) -> str:
    return f"regexp_matches(lower(trim({sql_name(label)})), {sql_text(f'^{LABEL}(?:{separator}{LABEL})*$')})"
