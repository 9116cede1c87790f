"""Whether something can be made at a place, found out before a command begins to work."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from data_tools.common.errors import UserError
from data_tools.common.storage import is_url

LONGEST_NAME = 230  # bytes; file systems take 255, and scratch files beside a place have longer names than it
LONGEST_PATH = 4000  # bytes; the system takes 4,096, and folders hold files


def check_place(place: str | Path, setting: str = "") -> None:
    """Check that a file or folder can be made at a place, as far as its name and the folders above it tell.

    Parameters
    ----------
    place : str or Path
        On this machine or a URL, of which only the characters are checked.
    setting : str
        The setting that names it, for the message.

    Raises
    ------
    UserError
        If the name is empty, too long or holds control characters, or a file or a folder that cannot be written to is
        in its way.
    """
    text = str(place)
    said = f"--{setting}" if setting else "a place to write to"
    if not text:
        raise UserError(f"{said} is empty; name a file or a folder")
    if bad := next((one for one in text if unicodedata.category(one) == "Cc"), None):
        raise UserError(f"{said} holds a control character, {bad!r}: {text[:200]!r}; choose a name without")
    if is_url(place):
        return
    path = Path(os.path.abspath(text))
    if long := next((name for name in path.parts if len(os.fsencode(name)) > LONGEST_NAME), None):
        size = len(os.fsencode(long))
        raise UserError(f"{said} holds a name of {size} bytes, {long[:40]}...; names may have {LONGEST_NAME}")
    if (size := len(os.fsencode(path))) > LONGEST_PATH:
        raise UserError(f"{said} is a path of {size} bytes, {str(path)[:40]}...; paths may have {LONGEST_PATH}")
    _check_folders(path, text)


def _check_folders(path: Path, text: str) -> None:
    above = next(one for one in path.parents if os.path.lexists(one))
    if not above.is_dir():
        raise UserError(f"{text} cannot be made: {above} is not a folder; choose another place")
    written = path if path.exists() else above  # a file may be one that is added to, such as /dev/stderr
    if not os.access(written, os.W_OK):
        raise UserError(f"{written} cannot be written to by this user; choose another place")


def check_folder(place: str | Path) -> None:
    """Refuse a place for a folder, new or already there, where a file is; before any work."""
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f"{place} is a file; name a folder")


def check_file(place: str | Path) -> None:
    """Refuse a place for a file, new or to be replaced, where a folder is; before any work."""
    if os.path.isdir(place):
        raise UserError(f"{place} is a folder; name a file")
