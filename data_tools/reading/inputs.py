"""The files of a log or of an item list, whatever their form, brought to Parquet.

One file, a folder or a glob of delimited text, JSON or Parquet; text and JSON may be compressed. What a file is, its
contents tell. The values of a text file stay text: nothing is guessed from a sample. Clean files are read by DuckDB;
where it stumbles, line by line (:mod:`data_tools.reading.lines`), so that only the broken lines are lost, and these are
kept apart. Parts are united by the names of their columns. A folder ``name=value`` below the place is a column of the
files in it, where they lack it.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet as pq

from data_tools.common.cache import copy_of, local
from data_tools.common.errors import UserError
from data_tools.common.storage import is_url, matches
from data_tools.reading import lines
from data_tools.reading.folders import files_below, hidden, natural
from data_tools.reading.form import DELIMITERS, Form, Given
from data_tools.reading.opened import COMPRESSED, head, is_parquet, suffix
from data_tools.reading.parts import Part, united
from data_tools.reading.text import Converter

JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq", ".parq")
SUFFIXES = (*DELIMITERS, ".txt", ".dat", ".data", "", *JSON_LINES, *PARQUET)
# What table formats keep beside their Parquet: the format, and how to write out the rows that count.
LAKES = {
    "_delta_log": (
        "Delta Lake",
        ': python -c \'import polars as p; p.read_delta("{0}").write_parquet("{0}.parquet")\'',
    ),
    "metadata/*.metadata.json": (
        "Iceberg",
        ': python -c \'import polars as p; p.scan_iceberg("{0}").sink_parquet("{0}.parquet")\'',
    ),
    ".hoodie": ("Hudi", " with Spark"),
}
BROKEN = {"reason": pl.String, "file": pl.String, "line": pl.Int64, "text": pl.String}
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Found:
    """The files at a place as Parquet.

    Attributes
    ----------
    parts : list of Part
        In the order of their rows.
    columns : dict of str to str
        Name in the files -> name in the parts, which differ where engines ask for it.
    broken : polars.DataFrame
        The lines that are no row: ``reason``, ``file``, ``line`` (from 1) and ``text``.
    notes : list of str
        What was inferred about the files, to be reported.
    """

    parts: list[Part]
    columns: dict[str, str]
    broken: pl.DataFrame
    notes: list[str]

    @property
    def rows(self) -> int:
        """How many rows and broken lines there are."""
        return sum(pq.read_metadata(part.path).num_rows for part in self.parts) + len(self.broken)


def find(place: str | Path, known: Collection[str] = SUFFIXES) -> list[Path]:
    """The files that a file's name, a folder or a glob stands for, in the order of their paths, numbers as numbers.

    What exists by that very name is no glob. Hidden files and those whose name begins with "_" are passed over in a
    folder, as by Spark, which leaves such; so are empty ones beside others. Linked folders in it are read, too. Of a
    URL the files are copies.

    Raises
    ------
    UserError
        If there is none, or they are not of one known form.
    """
    path = Path(place)
    if is_url(place):
        found = sorted(matches(place), key=natural)
        below = [p.relative_to(path).as_posix() if p.is_relative_to(path) else p.name for p in found]
        paths = [local(p) for p, name in zip(found, below, strict=True) if p == path or not hidden(name)]
    elif path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = sorted(files_below(path), key=natural)
    elif path.exists():
        raise UserError(
            f"{place} is a pipe or a device, which is read once from front to back; write it to a file first"
        )
    else:
        paths = sorted(map(Path, glob.glob(str(place), recursive=True)), key=natural)
        paths = [p for p in paths if p.is_file() and not hidden(p.name)]
    if path.is_dir() and (lake := next((one for mark, one in LAKES.items() if any(path.glob(mark))), None)):
        raise UserError(
            f"{place} is a table of {lake[0]}, whose folder also has files of rows that were removed; write out what "
            f"it holds{lake[1].format(path)}"
        )
    if not paths:
        raise UserError(f"{place} does not exist or holds no file; name a file, a folder or a glob")
    paths = [p for p in paths if p.stat().st_size] or paths
    forms = {suffix(p): p for p in reversed(paths)}
    for form, example in forms.items():
        if form not in known:
            if known is SUFFIXES:
                is_parquet(example)  # an error if it knows what else the file is
            endings = f"{', '.join(filter(None, known))} (text also with {', '.join(COMPRESSED)})"
            raise UserError(f"{example} ends neither in {endings}{_alone(place, paths, known)}")
    if len(set(map(_form, forms))) > 1:
        found = list(map(str, forms.values()))
        raise UserError(f"{place} holds files of several forms, {found}{_alone(place, paths, known)}")
    return paths


def _alone(place: str | Path, paths: Collection[Path], known: Collection[str]) -> str:
    """How to name the files of one form, where there are others beside them."""
    alike: dict[str, list[Path]] = {}
    for p in paths:
        if suffix(p) in known and suffix(p):
            alike.setdefault(_form(suffix(p)), []).append(p)
    usual = max(alike.values(), key=len, default=[])
    if not usual or len(paths) == sum(map(len, alike.values())):
        return ""
    # Only a glob that leaves out none of them: no half of a log is to be read for the whole.
    for glob_of in (f"*{usual[0].suffix}", f"*{suffix(usual[0])}*"):
        if usual == [p for p in paths if fnmatchcase(p.name, glob_of)]:
            deep = any(p.parent != Path(place) and p.is_relative_to(place) for p in usual)
            return f"; name those of one form alone, as in '{place}/{'**/' * deep}{glob_of}'"
    return "; name those of one form alone"


def _form(ending: str) -> str:
    return "json" if ending in JSON_LINES else ending


def _keys(path: Path, place: Path) -> dict[str, str | None]:
    """The folders ``name=value`` between a place (a folder, or the start of a glob) and a file in it."""
    while glob.has_magic(str(place)) and not place.exists():
        place = place.parent
    if not (place.is_dir() and path.is_relative_to(place)):
        return {}
    pairs = (part.partition("=") for part in path.relative_to(place).parts[:-1] if "=" in part)
    return {unquote(name): None if value == DEFAULT_PARTITION else unquote(value) for name, _, value in pairs}


def _is_json(path: Path) -> bool:
    """Whether a file is JSON: by its ending, or because its first line is an object or begins a list of them."""
    if suffix(path) in JSON_LINES:
        return True
    start = head(path).decode(errors="replace").lstrip("\ufeff \r\n\t")
    if re.match(r"\[\s*\{|\{\s*[\r\n]+\s*\"", start):
        return True
    return start.startswith("{") and lines.json_object(1, start.partition("\n")[0]).row is not None


def as_parquet(
    place: str | Path,
    folder: Path,
    name: str,
    *,
    expected: Collection[str],
    form: Form | None = None,
    given: Given | None = None,
    wanted: Collection[str] | None = None,
    every_key: bool = False,
    memory: str = "1GB",
) -> Found:
    """The files at a place as Parquet, converted in ``folder`` where they are text.

    Parameters
    ----------
    place : str or Path
    folder, name
        Where converted files go, and what their names begin with.
    expected : collection of str
        Columns of which some are expected.
    form : Form, optional
        Of delimited text, where it is known for certain.
    given : Given, optional
        What a user says of the form of text.
    wanted : collection of str, optional
        The keys to keep of JSON; by default all.
    every_key : bool
        Whether folders ``name=value`` are columns whatever their names, not only where these are expected.
    memory : str
        What DuckDB takes.

    Raises
    ------
    UserError
        If the files cannot be read at all.
    """
    paths = find(place) if form is None else find(place, [suffix(Path(place))])
    converter, parts = Converter(folder, name, memory), []
    for path in paths:
        parquet = is_parquet(path)  # an error where the file is something else
        if form is not None and not parquet:
            parts += converter.delimited(path, form, None, expected)
        elif parquet:
            parts.append(Part(path, path))
        elif suffix(path) in PARQUET:
            raise UserError(f"{path} cannot be read: it is no Parquet file; it begins {head(path, 40)!r}")
        elif _is_json(path):
            parts += converter.json(path, wanted)
        else:
            parts += converter.delimited(path, None, given, expected)
    united_parts, columns = united(parts, converter.renamed, expected, folder, name)
    broken, notes = pl.DataFrame(converter.broken, BROKEN, orient="row"), list(dict.fromkeys(converter.notes))
    keys = None if every_key else expected
    return Found(*_with_keys(united_parts, columns, copy_of(place), keys, notes), broken, notes)


def _with_keys(
    parts: list[Part], columns: dict[str, str], place: Path, expected: Collection[str] | None, notes: list[str]
) -> tuple[list[Part], dict[str, str]]:
    """The parts with the keys of their folders that are expected (None: all) and that the files lack; all columns."""
    keyed, used = [], dict[str, str]()
    for part in parts:
        keys = _keys(part.source, place)
        keys = {
            name: value
            for name, value in keys.items()
            if (expected is None or name in expected) and columns.get(name, name) not in part.names
        }
        used |= {name: name for name in keys}
        keyed.append(replace(part, keys=keys))
    notes += [f"{name} is taken from the folders {name}=..., as the files in them lack it" for name in used]
    return keyed, used | columns
