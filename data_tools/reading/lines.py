"""Text files read line by line: a broken line costs no other line.

A record of CSV may run over several lines inside quotes. A quote that is never closed would swallow the rest of the
file: its line is set aside, and reading continues with the next one.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.common.errors import UserError
from data_tools.reading.form import UTF8, Form, say_encoding, sound
from data_tools.reading.opened import opened_text

MOST_LINES = 1000  # of one record
BLOCK = 200_000  # rows
KEPT_TEXT = 10_000  # characters of a broken line
MOST_LOADED = 1 << 28  # bytes of JSON
DEEPEST = 4  # objects around the rows of an answer
INSIDE = ("_source", "node")  # keys of the row itself in answers of Elasticsearch and GraphQL

# With one of these as its only key, an object is a value of MongoDB: {"$oid": "5f5e..."}.
EXTENDED = {
    f"${kind}" for kind in ("oid", "date", "uuid", *(f"number{n}" for n in ("Int", "Long", "Double", "Decimal")))
}

FIELDS, QUOTES, ENCODING, JSON = "wrong number of fields", "quotes not closed", "not UTF-8", "not a JSON object"
TWICE = "a key stands twice"
HINTS = {
    FIELDS: (
        'a delimiter inside a value needs quotes round it: "a, b"; where all lines have a value more than the header '
        "has names, add a name to the header"
    ),
    QUOTES: 'a quote inside quotes is written twice: "a ""big"" thing"',
    JSON: "must be one object a line, or one array of objects",
    TWICE: "must hold each key once: rename all but one",
}


def advice(reason: str) -> list[str]:
    """What to do about lines that are no row for some reason, where anything is known."""
    return [say_encoding()] if reason == ENCODING else [HINTS[reason]] if reason in HINTS else []


class Line(NamedTuple):
    """A row (values in order, or by name), or why there is none; ``number`` (from 1) and ``text`` of its first line."""

    row: Sequence[str | None] | dict[str, str | None] | None
    reason: str
    number: int
    text: str


def header(path: Path, delimiter: str, encoding: str) -> list[str]:
    """The names in the first line.

    Raises
    ------
    UserError
        If the file is empty or its first line cannot be read.
    """
    with opened_text(path, encoding) as file:
        try:
            names = _split(file, delimiter)
        except csv.Error as error:
            raise UserError(f"{path} cannot be read: {error}; its first line must name its columns") from error
    if not names:
        raise UserError(f"{path} is empty; its first line must name its columns")
    if not all(map(sound, names)):
        raise UserError(f"{path} cannot be read: its first line is not UTF-8; save it as UTF-8")
    return names


def _split(file: Iterable[str], delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return next(iter(file), "").rstrip("\r\n").split(delimiter)
    return next(csv.reader(file, delimiter=delimiter), [])


class _Unclosed(Exception):
    pass


class _Held:
    """The lines of a file; those of the record in hand can be given back, all but the first."""

    def __init__(self, file: Iterator[str]) -> None:
        self.file, self.ahead, self.held, self.done = file, deque[str](), [], 0

    def __iter__(self) -> _Held:
        return self

    def __next__(self) -> str:
        line = self.ahead.popleft() if self.ahead else next(self.file)
        self.held.append(line)
        if len(self.held) > MOST_LINES:
            raise _Unclosed
        return line

    def forget(self) -> None:
        self.done += len(self.held)
        self.held = []

    def give_back(self) -> None:
        self.ahead.extendleft(reversed(self.held[1:]))
        del self.held[1:]


def _judge(row: Sequence[str], width: int, number: int, text: str) -> Line:
    if not sound(text):
        return Line(None, ENCODING, number, text)
    if len(row) == width + 1 and not row[-1]:  # one delimiter too many at the end, which DuckDB allows, too
        row = row[:-1]
    if len(row) != width:
        return Line(None, FIELDS, number, text)
    return Line([value or None for value in row], "", number, text)


def _quoted(file: Iterator[str], form: Form, width: int) -> Iterator[Line]:
    csv.field_size_limit(sys.maxsize)
    held = _Held(file)
    escape = {} if form.escape == '"' else {"escapechar": form.escape, "doublequote": False}
    records = csv.reader(held, delimiter=form.delimiter, strict=True, **escape)
    while True:
        held.forget()
        try:
            row = next(records)
        except StopIteration:
            return
        except (csv.Error, _Unclosed):
            held.give_back()
            yield Line(None, QUOTES, held.done + 1, held.held[0])
            continue
        if _holds(row, width):
            yield _judge(row, width, held.done + 1, "".join(held.held))


def _plain(file: Iterator[str], delimiter: str, width: int) -> Iterator[Line]:
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        row = text.split(delimiter)
        if _holds(row, width):
            yield _judge(row, width, number, text)


def _holds(row: list[str], width: int) -> bool:
    """Whether a line is to be read: nothing but delimiters is no row, but if their number is right it is counted."""
    return len(row) == width > 1 or any(value.strip(" ") for value in row)


def delimited(path: Path, form: Form, width: int) -> Iterator[Line]:
    """Rows of a file with ``width`` columns, without its header and what is above it."""
    with opened_text(path, form.encoding) as file:
        for _ in range(form.skipped):
            file.readline()
        if form.quoted and len(form.delimiter) == 1:
            found = _quoted(file, form, width)
        else:
            found = _plain(file, form.delimiter, width)
        for line in found if form.names else islice(found, 1, None):
            yield line._replace(number=line.number + form.skipped)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) < len(pairs):  # json itself would take the last one
        raise _Twice
    return next(iter(found.values())) if len(found) == 1 and found.keys() <= EXTENDED else found


def json_object(number: int, text: str) -> Line:
    """The object that a text is, its values as text."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except _Twice:
        return Line(None, TWICE, number, text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Line(None, JSON, number, text)
    values = {name: _as_text(value) for name, value in found.items()}
    if not all(map(sound, filter(None, values.values()))):
        return Line(None, ENCODING, number, text)
    return Line({name: value for name, value in values.items() if sound(name)}, "", number, text)


def json_objects(path: Path) -> Iterator[Line]:
    """The objects of a file that holds one a line."""
    with opened_text(path, UTF8) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield json_object(number, line)


def json_hint(text: str) -> str:
    """What would make JSON of a line that nearly is."""
    start = text.strip()
    if re.match(r"\{ *u?'", start):
        code = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"
        return f'; it is an object of Python, not of JSON: python -c "{code}" < OLD.json > NEW.json'
    if text.startswith("\x1e"):
        return r"; leave out the record separators: tr -d '\036' < OLD.json > NEW.json"
    if start.startswith("{") and start.endswith("},"):
        return "; leave out the commas between lines: sed 's/,$//' OLD.json > NEW.json"
    return ""


def one_a_line(path: Path) -> bool:
    """Whether a file of JSON begins with an object on a line of its own."""
    return next((one.row is not None for one in json_objects(path)), False)


def json_array(path: Path) -> Iterator[Line]:
    """The objects of a file that is one array of them and not large."""
    held = _loaded(path)
    if isinstance(held, list):
        yield from (json_object(number, json.dumps(one)) for number, one in enumerate(held, 1))


def _loaded(path: Path) -> Any:
    """What a file of JSON holds, where it is not large; otherwise None."""
    if path.stat().st_size < MOST_LOADED:
        with contextlib.suppress(ValueError, RecursionError), opened_text(path) as file:
            return json.load(file)
    return None


def rows_inside(path: Path) -> str:
    """How to take the rows out of the object that holds them all, where a file of JSON is such; otherwise nothing."""
    held = _loaded(path)
    if not isinstance(held, dict) or not held:
        return ""
    keys = None if len(held) > 1 and _objects(held.values()) else _way_to_rows(held)
    if keys is not None:
        rows = "o" + "".join(f"[{key!r}]" for key in keys)
        if inner := next((key for key in INSIDE if isinstance(_at(held, keys)[0].get(key), dict)), None):
            rows = f"[r[{inner!r}] for r in {rows}]"
    elif _objects(held.values()) and not any(isinstance(one, dict) for own in held.values() for one in own.values()):
        rows = "[{'item_id': k, **v} for k, v in o.items()]"
    else:
        return ""
    out = path.with_name(f"{path.stem}.rows.json")
    code = f"import json; o = json.load(open('{path}')); json.dump({rows}, open('{out}', 'w'))"
    return f'. Its rows are inside one object; take them out: python -c "{code}"'


def _way_to_rows(held: Any) -> list[str] | None:
    """The keys from an object to the nearest list of objects in it; None without one."""
    ways: list[list[str]] = [[]]
    for way in ways:  # which grows: the shorter ways come first
        for key, value in _at(held, way).items():
            if isinstance(value, list) and _objects(value):
                return [*way, key]
            if isinstance(value, dict) and len(way) < DEEPEST:
                ways.append([*way, key])
    return None


def _at(held: Any, way: Iterable[str]) -> Any:
    """What an object holds at the end of some keys."""
    return reduce(getitem, way, held)


class Nested(NamedTuple):
    """What a column holds in each row: named values, or ``several`` times such."""

    names: Sequence[str]
    several: bool


def nested_text(rows: Iterable[Mapping[str, str | None]]) -> dict[str, Nested]:
    """The columns whose texts are JSON objects, or lists of such."""
    found: dict[str, Nested] = {}
    for row in rows:
        for name, text in row.items():
            if name in found or not text or not text.lstrip().startswith(("{", "[")):
                continue
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(text)
                several = isinstance(value, list)
                if _objects(value if several else [value]):
                    found[name] = Nested(list(value[0] if several else value), several)
    return found


def _objects(values: Collection[Any]) -> bool:
    return bool(values) and all(isinstance(one, dict) for one in values)


def kept_text(text: str) -> str:
    """The text of a broken line as it is set aside."""
    return text.rstrip("\r\n")[:KEPT_TEXT].encode("utf-8", "backslashreplace").decode()
