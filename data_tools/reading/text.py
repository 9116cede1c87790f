"""Delimited text and JSON on their way to Parquet: nothing but text in it, whatever the values look like."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.parquet import engine_path, sql_name, sql_table, sql_text
from data_tools.reading import lines
from data_tools.reading.form import MARK, UTF8, Form, Given, find_encoding, find_form
from data_tools.reading.opened import compression, head, opened_text
from data_tools.reading.parts import Part, nested_hint, safe_names

NOTHING = "unnamed"
MOST_NAMED = 12  # keys, in a message
TAIL = 4096  # bytes at the end of a file that are looked at


@dataclass
class Converter:
    """Writes the files of a place as Parquet, one part or several a file.

    Attributes
    ----------
    folder, name
        Where the Parquet files go, and what their names begin with.
    memory : str
        What DuckDB takes.
    broken : list of tuple
        Reason, file, line (from 1) and text of each line that is no row.
    renamed : dict of str to str
        Name in the files -> name in the parts, where they differ.
    notes : list of str
        What was understood of the files.
    """

    folder: Path
    name: str
    memory: str
    broken: list[tuple[str, str, int, str]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def _next(self, ending: str = "parquet") -> Path:
        return self.folder / f"{self.name}-{next(self.numbers):06d}.{ending}"

    def _engine(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(config={"temp_directory": str(self.folder / "spill"), "memory_limit": self.memory})

    def _safe(self, names: Sequence[str]) -> list[str]:
        safe = safe_names(names)
        self.renamed |= {old: new for old, new in safe.items() if old != new}
        return list(safe.values())

    def _plain(self, path: Path, encoding: str) -> Path:
        """The file itself where DuckDB reads its encoding and compression, otherwise a copy that it reads."""
        if encoding == UTF8 and compression(path) in (None, "gzip", "zstd"):
            return path
        plain = self._next("txt")
        with opened_text(path, encoding) as file, open(plain, "w", errors="surrogateescape", newline="") as copy:
            while block := file.read(1 << 22):
                copy.write(block)
        return plain

    def delimited(self, path: Path, form: Form | None, given: Given | None, expected: Collection[str]) -> list[Part]:
        """The part of a delimited file; its form is found out unless it is named."""
        if form is None:
            form, names, notes = find_form(path, expected, given)
            self.notes += notes
        else:
            names = list(form.names or lines.header(path, form.delimiter, form.encoding))
        written, names = names, told_apart(names, expected, path)
        plain, safe = self._plain(path, form.encoding), self._safe(names)
        here = replace(form, encoding=UTF8) if plain != path else form
        out, parts = self._next(), list[Part]()
        for tried in _readings(here):
            if self._fast(plain, tried, safe, out):
                parts, form = [Part(out, path)], replace(tried, encoding=form.encoding)
                if tried != here:
                    how = "backslashes before quotes" if tried.quoted else "quotes as plain text"
                    self.notes.append(f"{path.name} is read with {how}, as only so all of its lines are rows")
                break
        if not parts:
            rows = self._sound(lines.delimited(plain, here, len(names)), path)
            parts = [self._write(path, block, safe) for block in _blocks(rows)] or [self._write(path, [], safe)]
        outs = [part.path for part in parts]
        nothing = " AND ".join(f"coalesce(trim({sql_name(one)}), '') = ''" for one in safe)
        no_rows = {"without any value": nothing}
        if form.names is None:
            named = zip(safe, written, strict=True)
            header = " AND ".join(f"trim({sql_name(one)}, ' {MARK}') = {sql_text(name)}" for one, name in named)
            no_rows = {"that repeat the header": header, **no_rows}
        self._drop(path, outs, no_rows)
        return [replace(part, form=form) for part in parts]

    def _sound(self, found: Iterator[lines.Line], path: Path) -> Iterator[Any]:
        """The rows; what is none is kept in ``broken``."""
        for one in found:
            if one.row is not None:
                yield one.row
            else:
                self.broken.append((one.reason, str(path), one.number, lines.kept_text(one.text)))

    def _write(self, source: Path, rows: Sequence[Sequence[str | None]], names: Sequence[str]) -> Part:
        out, schema = self._next(), pa.schema([(name, pa.string()) for name in names])
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(names)
        pq.write_table(pa.table(columns, schema=schema), out)
        return Part(out, source)

    def _fast(self, path: Path, form: Form, names: Sequence[str], out: Path) -> bool:
        """Whether DuckDB could read all of it, with not a single complaint."""
        try:
            with self._engine() as engine:
                rows = engine.read_csv(
                    engine_path(path),
                    auto_detect=False,
                    columns=dict.fromkeys(names, "VARCHAR"),
                    header=form.names is None,
                    delimiter=form.delimiter,
                    skiprows=form.skipped,
                    quotechar='"' if form.quoted else "",
                    escapechar=form.escape if form.quoted else "",
                    hive_partitioning=False,
                    compression=compression(path) or "none",
                )
                rows.write_parquet(str(out))
                if form.quoted or form.names is not None:
                    return True
                # Quotes round whole values protect them: then they are no part of the text.
                wrapped = " OR ".join(f"regexp_matches({sql_name(name)}, '^\".*\"$', 's')" for name in names)
                return not engine.sql(f"FROM {sql_table([out])} WHERE {wrapped} LIMIT 1").fetchall()
        except duckdb.Error:
            return False

    def _drop(self, path: Path, outs: Sequence[Path], no_rows: Mapping[str, str]) -> None:
        """Leave out what is no row: the header again, as where files were put together, or nothing but delimiters.

        ``no_rows`` has a condition for each kind, by what is said of its lines; a row meets one of them at most.
        """
        dropped = dict.fromkeys(no_rows, 0)
        counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in no_rows.values())
        either = " OR ".join(f"({condition})" for condition in no_rows.values())
        with self._engine() as engine:
            for out in outs:
                found = engine.sql(f"SELECT {counts} FROM {sql_table([out])}").fetchall()[0]
                if any(found):
                    kept = self._next()
                    engine.sql(f"FROM {sql_table([out])} WHERE ({either}) IS NOT TRUE").write_parquet(str(kept))
                    kept.replace(out)
                    dropped = {what: dropped[what] + count for what, count in zip(no_rows, found, strict=True)}
        self.notes += [
            f"{path.name}: {count:,} lines {what} are passed over" for what, count in dropped.items() if count
        ]

    def json(self, path: Path, wanted: Collection[str] | None) -> list[Part]:
        """Parts of a file of JSON objects: the ``wanted`` keys, by default all, each part with those of its objects."""
        parts, found = [], dict[str, None]()
        for block in _blocks(self._sound(self._objects(self._plain(path, find_encoding(path))), path)):
            keys = dict.fromkeys(name for one in block for name in one)
            found |= keys
            names = [name for name in keys if wanted is None or name in wanted] or [
                NOTHING
            ]  # objects count, keys or not
            parts.append(self._write(path, [[one.get(name) for name in names] for one in block], self._safe(names)))
        if not found:
            first = next((row for row in self.broken if row[1] == str(path)), None)
            line = f"; line {first[2]} begins {first[3][:40]!r}{lines.json_hint(first[3])}" if first else ""
            hint = lines.HINTS[first[0] if first else lines.JSON]
            raise UserError(f"{path} holds no JSON object{line}; {hint}; it may be empty, or cut")
        if wanted is not None and not found.keys() & set(wanted):
            hint = nested_hint([Part(parts[0].path, path)], wanted)
            keys = f"{list(found)[:MOST_NAMED]}{' and more' if len(found) > MOST_NAMED else ''}"
            raise UserError(f"{path} has the keys {keys}; some of them must be of {sorted(wanted)}{hint}")
        if any(f'"{kind}"'.encode() in head(path) for kind in lines.EXTENDED):
            self.notes.append(f'{path.name}: values of MongoDB such as {{"$oid": "5f5e"}} are read as what they hold')
        return parts

    def _objects(self, path: Path) -> Iterator[lines.Line]:
        """The objects of a file: one a line, or in one array, or over several lines each."""
        first = head(path).decode(errors="replace").lstrip("\ufeff \r\n\t").partition("\n")[0]
        if first and lines.json_object(1, first).row is None:
            with self._engine() as engine:
                read = f"read_json_objects({sql_text(engine_path(path))}, format = ?, hive_partitioning = false)"
                number = itertools.count(1)
                try:
                    found = engine.execute(f"SELECT json FROM {read}", ["array" if first[0] == "[" else "unstructured"])
                    while block := found.fetchmany(10_000):
                        yield from (lines.json_object(next(number), text) for (text,) in block)
                    if not _ends_with(path, b"]" if first[0] == "[" else b"}"):
                        raise UserError(f"{path} ends before its JSON does: the file is cut; copy it again")
                    self.notes.append(f"{path.name} is read as JSON that is not one object a line")
                    return
                except duckdb.Error as error:
                    if (given := next(number) - 1) > 0:
                        raise UserError(
                            f"{path} cannot be read beyond its object {given:,}: {str(error).splitlines()[0]}"
                        ) from None
        yield from lines.json_objects(path)


def told_apart(names: Sequence[str], expected: Collection[str], path: Path) -> list[str]:
    """The names of columns, where one stands more than once with a number behind it.

    Raises
    ------
    UserError
        If one of the columns expected stands more than once.
    """
    if twice := sorted({name for name in names if names.count(name) > 1} & set(expected)):
        raise UserError(f"{path} names the columns {twice} more than once: {list(names)}; rename all but one of each")
    apart: list[str] = []
    for name in names:
        numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        apart.append(next(one for one in numbered if one not in apart and (one == name or one not in names)))
    return apart


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether a file's last byte that is no blank is ``end``; DuckDB does not miss the end of an array."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().rstrip(b" \t\r\n\x00").endswith(end)


def _readings(form: Form) -> list[Form]:
    """A form, and those that are tried where DuckDB complains of it."""
    if not form.quoted or len(form.delimiter) > 1 or form.names:
        return [form]
    return [form, replace(form, escape="\\"), replace(form, quoted=False)]


def _blocks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while block := list(itertools.islice(rows, lines.BLOCK)):
        yield block
