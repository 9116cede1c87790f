"""The files of a log or of an item list, whatever their form, brought to Parquet.

One file, a folder or a glob of CSV, TSV, JSON lines or Parquet; text may be compressed (.gz, .zst, .bz2). The values of
a text file stay text: nothing is guessed from a sample. Whole files that are clean CSV are read by DuckDB; where it
stumbles, line by line (:mod:`data_tools.reading.lines`), so that only the broken lines are lost, and these are kept
apart.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.cli import UserError
from data_tools.reading import lines

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet")
COMPRESSED = (".gz", ".zst", ".bz2")
BROKEN = {"reason": pl.String, "file": pl.String, "line": pl.Int64, "text": pl.String}


@dataclass(frozen=True)
class Form:
    """How text files are laid out, where their name does not say it.

    Attributes
    ----------
    delimiter : between fields; of several characters for files without quotes, such as "::"
    names : of the columns, for files whose first line is no header
    encoding : of the text
    """

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    encoding: str = "utf-8-sig"
    quoted: bool = True


def suffix(path: Path) -> str:
    """The ending that tells the form of a file, without that of its compression: ".csv" for log.csv.gz."""
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    return name.suffix.lower()


def find(place: str | Path, known: Collection[str] = SUFFIXES) -> list[Path]:
    """The files that a file's name, a folder or a glob stands for, in the order of their paths.

    Hidden files and those whose name begins with "_" are passed over in a folder, as by Spark, which leaves such.

    Raises
    ------
    UserError
        If there is none, or they are not of one known form.
    """
    path = Path(place)
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.is_file())
        paths = [p for p in paths if not any(part.startswith((".", "_")) for part in p.relative_to(path).parts)]
    else:
        paths = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(str(place), recursive=True))
        paths = [p for p in paths if p.is_file()]
    if not paths:
        raise UserError(f"{place} does not exist or holds no file; name a file, a folder or a glob")
    forms = {suffix(p): p for p in reversed(paths)}
    for form, example in forms.items():
        if form not in known:
            raise UserError(f"{example} ends neither in {', '.join(known)} (text also with {', '.join(COMPRESSED)})")
    if len(forms) > 1:
        raise UserError(f"{place} holds files of several forms, {list(map(str, forms.values()))}; name those of one")
    return paths


class Converted:
    """Text files on their way to Parquet in a folder, and the lines of them that are no row."""

    def __init__(self, folder: Path, name: str, memory: str) -> None:
        self.folder, self.name, self.memory = folder, name, memory
        self.broken: list[tuple[str, str, int, str]] = []

    def broken_lines(self) -> pl.DataFrame:
        """The broken lines: ``reason``, ``file``, ``line`` (from 1) and ``text``."""
        return pl.DataFrame(self.broken, BROKEN, orient="row")

    def _rows(self, found: Iterable[lines.Line], names: Sequence[str], path: Path, out: Path) -> None:
        """Write the rows of a file in blocks and note its broken lines."""
        schema = pa.schema([(name, pa.string()) for name in names])
        with pq.ParquetWriter(out, schema) as writer:
            for block in lines.blocks(found, self.broken, path):
                writer.write_table(pa.table([list(column) for column in zip(*block, strict=True)], schema=schema))

    def delimited(self, paths: Sequence[Path], form: Form) -> list[Path]:
        """Parquet files of delimited ones, and nothing but text in them."""
        names = form.names or lines.header(paths[0], form.delimiter, form.encoding)
        for path in paths[1:] if form.names is None else ():
            if (other := lines.header(path, form.delimiter, form.encoding)) != names:
                raise UserError(f"{path} has the columns {other}, {paths[0]} has {names}; the same are expected")
        if len(set(names)) != len(names):
            raise UserError(f"{paths[0]} names a column twice in its first line: {names}")
        whole = self.folder / f"{self.name}.parquet"
        if form.encoding == "utf-8-sig" and self._fast(paths, form, names, whole):
            return [whole]
        whole.unlink(missing_ok=True)
        outs = []
        for number, path in enumerate(paths):
            outs.append(self.folder / f"{self.name}-{number:05d}.parquet")
            self._rows(lines.delimited(path, form, len(names)), names, path, outs[-1])
        return outs

    def _fast(self, paths: Sequence[Path], form: Form, names: Sequence[str], out: Path) -> bool:
        """Whether DuckDB could read all of it, with not a single complaint."""
        quote = '"' if form.quoted else ""
        options = {
            "columns": dict.fromkeys(names, "VARCHAR"),
            "header": form.names is None,
            "delimiter": form.delimiter,
        }
        try:
            config = {"temp_directory": str(self.folder / "spill"), "memory_limit": self.memory}
            with duckdb.connect(config=config) as engine:
                rows = engine.read_csv(
                    [str(p) for p in paths], auto_detect=False, quotechar=quote, escapechar=quote, **options
                )
                rows.write_parquet(str(out))
        except duckdb.Error:
            return False
        return True

    def json_lines(self, paths: Sequence[Path], wanted: Collection[str] | None) -> list[Path]:
        """Parquet files of JSON lines: the ``wanted`` keys, by default those of the first lines; all values as text."""
        names = [name for name in lines.keys(paths) if wanted is None or name in wanted]
        if not names:
            raise UserError(f"{paths[0]} has the keys {lines.keys(paths)}; of {sorted(wanted or ())} some are expected")
        outs = []
        for number, path in enumerate(paths):
            outs.append(self.folder / f"{self.name}-{number:05d}.parquet")
            self._rows(lines.json_rows(path, names), names, path, outs[-1])
        return outs


def as_parquet(
    place: str | Path,
    folder: Path,
    name: str,
    form: Form | None = None,
    wanted: Collection[str] | None = None,
    memory: str = "1GB",
) -> tuple[list[Path], pl.DataFrame]:
    """The files at a place as Parquet, converted in ``folder`` where they are text, and the lines that are no row.

    Parameters
    ----------
    form : of delimited text whose name does not tell it
    wanted : the keys that matter in JSON lines; by default those of the first lines
    memory : what DuckDB takes

    Raises
    ------
    UserError
        If the files cannot be read at all.
    """
    paths = find(place) if form is None else find(place, [suffix(Path(place))])
    converted, kind = Converted(folder, name, memory), suffix(paths[0])
    try:
        if form is not None or kind in DELIMITERS:
            made = converted.delimited(paths, form or Form(DELIMITERS[kind]))
        elif kind in JSON_LINES:
            made = converted.json_lines(paths, wanted)
        else:
            made = paths
            for path in paths:
                pq.read_metadata(path)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise UserError(f"{place} cannot be read: {error}") from error
    return made, converted.broken_lines()
