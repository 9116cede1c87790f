"""How a text file is laid out: encoding, delimiter, names of the columns; found in its first lines.

A delimiter other than the ending's is taken only where the header gives the wanted names by it and not by the usual
one. What was found in this way is reported.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.common.hints import hint
from data_tools.common.lists import comma_separated
from data_tools.reading.opened import head, suffix

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".inter": "\t", ".item": "\t", ".user": "\t"}
TYPED = r":(token|float)(_seq)?$"  # behind each name in the atomic files of RecBole
GUESSED = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe", "\x01": "^A", "::": "::"}
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark its own begins with
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMMENT = "#"
MARK = "\ufeff"  # the byte-order mark, of which a file may have several
MOST_ABOVE = 20  # lines that are looked at
COMMA = r"^\s*-?\d+,\d+\s*$"  # a number with a decimal comma
POINT = (
    "the fraction of a number must follow a point, not a comma; where columns are not separated by commas: "
    r"sed -E 's/([0-9]),([0-9])/\1.\2/g' OLD.csv > NEW.csv"
)
UTF8 = "utf-8-sig"


@dataclass(frozen=True)
class Form:
    """How a text file is laid out.

    Attributes
    ----------
    delimiter : str
        Between fields; of several characters for files without quotes, such as "::".
    names : tuple of str, optional
        Of the columns, for files whose first line is no header.
    encoding : str
        Of the text.
    quoted : bool
        Whether quotes protect delimiters and line breaks.
    escape : str
        What precedes a quote inside quotes: another quote, or a backslash.
    skipped : int
        Lines above the header.
    """

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    encoding: str = UTF8
    quoted: bool = True
    escape: str = '"'
    skipped: int = 0


@dataclass(frozen=True)
class Given:
    """What a user says of the form of text files; None for what is to be found out.

    Attributes
    ----------
    encoding, delimiter : str, optional
    names : tuple of str, optional
        Of the columns of files without a header.
    """

    encoding: str | None = None
    delimiter: str | None = None
    names: tuple[str, ...] | None = None


def given_form(encoding: str, delimiter: str, header: str) -> Given:
    """What a user says, "" for what is to be found out."""
    names = tuple(comma_separated(header)) if header else None
    return Given(encoding or None, delimiter.replace(r"\t", "\t") or None, names)


@dataclass(frozen=True, kw_only=True)
class LogForm(Checked):
    """What a command is told of the form of a log.

    Attributes
    ----------
    columns : str
        Our names for the log's columns, as in user_id=player,click=liked.
    encoding : str
        Encoding of the log's text files, such as cp1252; empty detects it.
    delimiter : str
        Separator of the columns of the log's text files, such as ";"; empty detects it.
    header : str
        Names of the log's columns, as in a,b,c, where its text files have no line of names.
    """

    columns: str = ""
    encoding: str = ""
    delimiter: str = ""
    header: str = ""

    @property
    def log_form(self) -> Given:
        """What was given about the form of the log's text files."""
        return given_form(self.encoding, self.delimiter, self.header)


def say_encoding() -> str:
    """What to do about text that is not in the encoding expected."""
    others = [hint("--item-encoding for an item list"), hint("--user-encoding for a table of users")]
    apart = ", ".join(filter(None, others))
    return hint("say how it is encoded, as in --encoding cp1252", "write it as UTF-8") + (
        f" ({apart})" if apart else ""
    )


def find_form(path: Path, wanted: Collection[str], given: Given | None = None) -> tuple[Form, list[str], list[str]]:
    """The form of a text file, its columns, and what is worth saying of them.

    Parameters
    ----------
    path : Path
    wanted : collection of str
        Names of which some are expected in the header.
    given : Given, optional

    Raises
    ------
    UserError
        If the file is empty, or its first lines are not in the encoding expected.
    """
    given = given or Given()
    encoding = find_encoding(path, given.encoding)
    lines = _first_lines(path, encoding)
    usual = given.delimiter or DELIMITERS.get(suffix(path), ",")

    def fits(delimiter: str, lines: Sequence[str] = lines) -> int:
        """How well a delimiter suits the first line: wanted names that it gives, or whether it gives all columns."""
        if given.names:
            return int(len(_split(lines, delimiter)) == len(given.names))
        return len({name.lower() for name in column_names(lines, delimiter)} & {name.lower() for name in wanted})

    skipped = 0
    for line in lines:
        if not skipped and (said := re.fullmatch(r'"?sep=(\\t|[^"])"?', line.strip(), re.IGNORECASE)):
            usual = said[1].replace(r"\t", "\t")
        elif line.strip() and not (
            line.startswith(COMMENT) and not any(fits(one, [line]) for one in (usual, *GUESSED))
        ):
            break
        skipped += 1
    lines = lines[skipped:]
    if not any(lines):
        raise UserError(f"{path} is empty; its first line must name its columns")
    above = 0 if given.names else _above_header(lines, fits, (usual, *GUESSED))
    lines, skipped = lines[above:], skipped + above
    delimiter = given.delimiter or max((usual, *GUESSED), key=partial(fits, lines=lines))
    if not given.delimiter and not fits(delimiter):
        delimiter = _even(lines, usual)
    names = list(given.names or column_names(lines, delimiter))
    if not all(map(sound, names)):
        raise UserError(f"{path} cannot be read: its first line is not UTF-8; {say_encoding()}")
    notes = [f"{path.name} is read as {encoding}"] if encoding not in (UTF8, given.encoding) else []
    if delimiter != usual:
        notes.append(f"{path.name} is read with a {GUESSED[delimiter]} between its columns")
    if skipped:
        what = "what stands above its header" if above else "comments, blank lines or sep="
        notes.append(f"{path.name}: the first {skipped} lines are passed over ({what})")
    return Form(delimiter, given.names, encoding, skipped=skipped), names, notes


def _above_header(lines: Sequence[str], fits: Callable[..., int], delimiters: Collection[str]) -> int:
    """How many lines, such as a title, stand above the first one that names two wanted columns; 0 where none does."""
    if any(fits(one, lines) for one in delimiters):
        return 0
    found = (at for at in range(1, min(len(lines), MOST_ABOVE)) for one in delimiters if fits(one, lines[at:]) > 1)
    return next(found, 0)


def _even(lines: Sequence[str], usual: str) -> str:
    """The delimiter that splits the first lines into the most fields, as many in each, where the usual one does not."""
    some = [line for line in lines[:MOST_ABOVE] if line.strip()]

    def width(delimiter: str) -> int:
        widths = {len(_split([line], delimiter)) for line in some}
        return widths.pop() if len(widths) == 1 else 1

    if len(_split(some, usual)) > 1 or len(some) < 2:
        return usual
    return max((usual, *GUESSED), key=width)


def column_names(lines: Sequence[str], delimiter: str) -> list[str]:
    """The names in a header, without surrounding blanks or a comment sign before them; "unnamed_N" for an empty one.

    Types behind all of them, as in ``user_id:token``, are left out.
    """
    names = _split([line.removeprefix(COMMENT) for line in lines[:1]] + list(lines[1:]), delimiter)
    if all(re.search(TYPED, name) for name in names):
        names = [re.sub(TYPED, "", name) for name in names]
    return [name.strip(f"{MARK} \t\r\n") or f"unnamed_{place}" for place, name in enumerate(names, 1)]


def sound(text: str) -> bool:
    """Whether a text was read without bytes outside its encoding."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split(lines: Sequence[str], delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return lines[0].split(delimiter)
    return next(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True), [])


def find_encoding(path: Path, given: str | None = None) -> str:
    """The encoding by the mark that a file begins with, as it was given, or as the zeros of UTF-16 tell."""
    start = head(path, 64)
    if mark := next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), None):
        return mark
    if given:
        try:
            name = codecs.lookup(given).name
        except LookupError:
            raise UserError(f"unknown encoding {given!r}; choose utf-8, utf-16, latin-1, cp1252, ...") from None
        return UTF8 if name == "utf-8" else name
    even, odd = start[::2], start[1::2]
    if start and all(even) and not any(odd):
        return "utf-16-le"
    return "utf-16-be" if start and all(odd) and not any(even) else UTF8


def _first_lines(path: Path, encoding: str) -> list[str]:
    """The lines at the start of a file, without their ends."""
    start = head(path)
    try:
        text = codecs.getincrementaldecoder(encoding)("strict" if "16" in encoding else "surrogateescape").decode(start)
    except UnicodeError as error:
        raise UserError(f"{path} is not {encoding}: {error}; {say_encoding()}") from None
    return re.split(r"\r\n|\n|\r", text)
