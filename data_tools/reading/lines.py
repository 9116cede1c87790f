"""Text files read line by line, so that one broken line costs that line and no other.

A record of CSV may run over several lines inside quotes. A quote that is never closed would swallow the rest of the
file: its line is set aside, and reading goes on with the next one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_tools.common.cli import UserError

MOST_LINES = 1000  # of one record
BLOCK = 50_000  # rows
KEPT_TEXT = 10_000  # characters of a broken line

FIELDS, QUOTES, ENCODING, JSON = "wrong number of fields", "quotes not closed", "not UTF-8", "not a JSON object"


class Line(NamedTuple):
    """A row, or why there is none; ``number`` (from 1) and ``text`` of the line it begins on."""

    row: Sequence[str | None] | None
    reason: str
    number: int
    text: str


@contextlib.contextmanager
def opened(path: Path, encoding: str = "utf-8-sig") -> Iterator[io.TextIOWrapper]:
    """The text of a file, compressed or not; what is no UTF-8 becomes lone surrogates, which ``_sound`` finds."""
    with pa.input_stream(str(path), compression="detect") as stream:
        yield io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline="")


def _sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def header(path: Path, delimiter: str, encoding: str) -> list[str]:
    """The names in the first line.

    Raises
    ------
    UserError
        If the file is empty or its first line cannot be read.
    """
    with opened(path, encoding) as file:
        try:
            names = _split(file, delimiter)
        except (csv.Error, OSError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read: {error}; a line with the names of the columns is expected"
            ) from error
    if not names:
        raise UserError(f"{path} is empty; a first line with the names of its columns is expected")
    if not all(map(_sound, names)):
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
    if not _sound(text):
        return Line(None, ENCODING, number, text)
    if len(row) == width + 1 and not row[-1]:  # one delimiter too many at the end, which DuckDB allows, too
        row = row[:-1]
    if len(row) != width:
        return Line(None, FIELDS, number, text)
    return Line([value or None for value in row], "", number, "")


def _quoted(file: Iterator[str], delimiter: str, width: int) -> Iterator[Line]:
    csv.field_size_limit(sys.maxsize)
    held = _Held(file)
    records = csv.reader(held, delimiter=delimiter, strict=True)
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
        if row:  # a blank line is no row
            yield _judge(row, width, held.done + 1, "".join(held.held))


def _plain(file: Iterator[str], delimiter: str, width: int) -> Iterator[Line]:
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if text:
            yield _judge(text.split(delimiter), width, number, text)


def delimited(path: Path, form: Any, width: int) -> Iterator[Line]:
    """Rows of a file of a :class:`data_tools.reading.inputs.Form` with ``width`` columns, without its header."""
    with opened(path, form.encoding) as file:
        if form.quoted and len(form.delimiter) == 1:
            found = _quoted(file, form.delimiter, width)
        else:
            found = _plain(file, form.delimiter, width)
        yield from found if form.names else islice(found, 1, None)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


def _objects(path: Path) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            yield number, line, value if isinstance(value, dict) else None


def json_rows(path: Path, names: Sequence[str]) -> Iterator[Line]:
    """The values of JSON objects, one a line, as text; a key that a line lacks is null."""
    for number, line, value in _objects(path):
        if value is None:
            yield Line(None, JSON, number, line)
            continue
        row = [_as_text(value.get(name)) for name in names]
        if all(_sound(one) for one in row if one):
            yield Line(row, "", number, "")
        else:
            yield Line(None, ENCODING, number, line)


def keys(paths: Sequence[Path]) -> list[str]:
    """The keys of the first thousand lines of JSON lines, in the order of their appearance."""
    found = {}
    for path in paths:
        for _, _, value in islice(_objects(path), 1000):
            found |= dict.fromkeys(value or ())
    return [name for name in found if _sound(name)]


def blocks(
    found: Iterable[Line], broken: list[tuple[str, str, int, str]], path: Path
) -> Iterator[list[Sequence[str | None]]]:
    """Rows in blocks; the broken lines are appended to ``broken`` as (reason, file, number, text)."""
    block: list[Sequence[str | None]] = []
    for line in found:
        if line.row is not None:
            block.append(line.row)
        else:
            text = line.text.rstrip("\r\n")[:KEPT_TEXT].encode("utf-8", "backslashreplace").decode()
            broken.append((line.reason, str(path), line.number, text))
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block
