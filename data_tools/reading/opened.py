"""Files opened by what they hold, whatever they are called: compressed or not, text, JSON or Parquet."""

from __future__ import annotations

import contextlib
import errno
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from data_tools.common.errors import UserError
from data_tools.reading.folders import files_below, hidden, natural

COMPRESSED = (".gz", ".gzip", ".zst", ".bz2", ".xz", ".lz4", ".zip")
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
ROTATED = re.compile(r"(\.[A-Za-z]\w*)[.-]\d[\d_-]*$")  # behind an ending: .csv.1, .csv.2024-01-05, .csv-20240105
PARQUET = b"PAR1"
LFS = b"version https://git-lfs"
WEB_PAGE = (b"<!doctype html", b"<html")
SAVE_AS_CSV = "save it as CSV (UTF-8)"
# What is no text and is sometimes taken for it, and what to do about it.
FOREIGN = {
    b"ARROW1": ("an Arrow (Feather) file", 'import polars as p; p.read_ipc("{0}").write_parquet("{0}.parquet")'),
    b"ORC": (
        "an ORC file",
        'from pyarrow import orc, parquet as p; p.write_table(orc.read_table("{0}"), "{0}.parquet")',
    ),
    b"Obj\x01": ("an Avro file", 'import polars as p; p.read_avro("{0}").write_parquet("{0}.parquet")'),
    b"SQLite format 3": ("an SQLite database", None),
    b"\x89HDF": ("an HDF5 file", None),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", None),
    b"\x89PNG": ("a picture", None),
    b"\xff\xd8\xff": ("a picture", None),
    b"%PDF": ("a PDF", None),
}
FAULTS = (OSError, EOFError, pa.ArrowException, zipfile.BadZipFile, lzma.LZMAError, zlib.error)


def suffix(path: Path) -> str:
    """The ending that tells the form of a file: ".csv" for log.CSV.

    Without that of its compression, and without the number or the day behind it of a log that was rotated: ".csv" for
    log.csv.gz, log.csv.1, log.csv.2024-01-05 and log.csv-20240105.gz, too.
    """
    path = _unrotated(path)
    return _unrotated(path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def _unrotated(path: Path) -> Path:
    return path.with_name(ROTATED.sub(r"\1", path.name)) if path.name else path


def compression(path: Path) -> str | None:
    """How a file is compressed, by its first bytes; None for not at all."""
    with open(path, "rb") as file:
        head = file.read(8)
    return _compressed(head)


def _compressed(head: bytes) -> str | None:
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The contents of a file, decompressed where they are compressed; of a zip the one file in it.

    Raises
    ------
    UserError
        If the file cannot be decompressed, or is a zip of several.
    """
    kind = compression(path)
    try:
        if kind is None:
            with open(path, "rb") as file:
                yield file
        elif kind == "zip":
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as file:
                yield file
        elif kind == "xz":
            with lzma.open(path) as file:
                yield file
        else:
            with pa.input_stream(str(path), compression=kind) as file:
                yield file
    except FAULTS as error:
        if getattr(error, "errno", None) == errno.ENOSPC:  # of what is written meanwhile
            raise
        raise UserError(f"{path} cannot be read: {error}") from error
    except RuntimeError as error:  # of zipfile: a password is needed
        raise UserError(f"{path} cannot be read: {error}; unpack it first") from error


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not hidden(name)]
    if any(name == "[Content_Types].xml" for name in names):
        raise UserError(f"{path} is an Excel workbook (or the like); {SAVE_AS_CSV}")
    if len(names) != 1:
        raise UserError(f"{path} is a zip of {len(names)} files, {names[:5]}; must be one: unpack it and name the file")
    return names[0]


def head(path: Path, size: int = 1 << 16) -> bytes:
    """The first bytes of what a file holds."""
    with opened(path) as file:
        return file.read(size)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet.

    Raises
    ------
    UserError
        If it is neither that nor text; the message says what it is and what to do.
    """
    start = head(path, 512)
    if start.startswith(PARQUET):
        if kind := compression(path):
            raise UserError(f"{path} is Parquet inside {kind}; decompress it first")
        return True
    if (inner := _compressed(start)) and (kind := compression(path)):
        raise UserError(f"{path} is {inner} inside {kind}; decompress it first")
    if start.startswith(LFS):
        raise UserError(f"{path} is a pointer of git-LFS, not the file itself; fetch it: git lfs pull")
    if start.lstrip().lower().startswith(WEB_PAGE):
        raise UserError(f"{path} is a web page, perhaps that of a login in place of the file; download it again")
    # A first line of names may begin as other files do: ORCID,item_id
    named = start[:16].decode("latin-1").partition(",")[0].isidentifier()
    for magic, (what, command) in FOREIGN.items():
        if start.startswith(magic) and not named:
            advice = f"make Parquet of it: python -c '{command.format(path)}'" if command else "export CSV or Parquet"
            raise UserError(f"{path} is {what}; {advice if 'Excel' not in what else SAVE_AS_CSV}")
    if start[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive; unpack it and name the file in it")
    return False


@contextlib.contextmanager
def opened_text(path: Path, encoding: str = "utf-8-sig") -> Iterator[io.TextIOWrapper]:
    """The text of a file, compressed or not; bytes outside the encoding become lone surrogates."""
    with opened(path) as file:
        try:
            yield io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
        except UnicodeError as error:
            raise UserError(f"{path} is not {encoding}: {error}") from error


def below(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder that a glob names, in order, numbers as numbers.

    None that is hidden or that an archiver left (``__MACOSX``), and no compressed file beside what was unpacked of it.
    """
    found = [p for p in files_below(folder) if p.match(pattern)]
    kept = (p for p in found if not (p.suffix.lower() in COMPRESSED and p.with_suffix("").is_file()))
    return sorted(kept, key=natural)
