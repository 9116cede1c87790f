"""What lies below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath


def hidden(name: str) -> bool:
    """Whether a relative path is hidden, or left by a program: ".thumbs/a.png", "_SUCCESS", "__MACOSX/._a.csv"."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def natural(path: Path) -> tuple[list[list[str | int]], str]:
    """A key that sorts paths folder by folder with the numbers in names as numbers: log-2 before log-10."""
    parts = [re.split("([0-9]+)", part) for part in path.parts]
    return [[int(piece) if n % 2 else piece for n, piece in enumerate(part)] for part in parts], str(path)


def files_below(folder: Path, passed_over: Callable[[str], bool] = hidden) -> Iterator[Path]:
    """The files below a folder, also of folders that are linked there, as a glob finds them.

    Each folder is read once, where it really lies if that is below, so that a link ``latest`` beside the days repeats
    none of them, and a circle of links ends. Files and folders whose names are passed over are left out.
    """
    read, waiting = set[str](), [str(folder)]
    while waiting:
        for place, folders, names in os.walk(waiting.pop(0)):
            folders[:] = sorted(name for name in folders if not passed_over(name))
            if (real := os.path.realpath(place)) in read:
                folders.clear()
            else:
                read.add(real)
                yield from (p for name in names if not passed_over(name) and (p := Path(place, name)).is_file())
                waiting += (linked for name in folders if os.path.islink(linked := os.path.join(place, name)))
