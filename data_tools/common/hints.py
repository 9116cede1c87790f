"""What messages say of settings: only those that the running command has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator

SETTING = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*(?:\.[a-zA-Z]\w*)*)")  # in a text

_running: list[frozenset[str] | None] = []  # of each command in progress, once it knows its settings


@contextlib.contextmanager
def command() -> Iterator[None]:
    """While the block runs, hints are those of one command, whose settings :func:`has` tells."""
    _running.append(None)
    try:
        yield
    finally:
        _running.pop()


def has(names: Collection[str]) -> None:
    """Say which settings the running command has; without one, as in Python, hints name any."""
    if _running:
        _running[-1] = frozenset(names)


def hint(text: str, otherwise: str = "") -> str:
    """A text where the running command has every setting (``--name``) that it mentions; else another one."""
    known = _running[-1] if _running else None
    named = [name.replace("-", "_") for name in SETTING.findall(text)]
    return text if known is None or all(name in known for name in named) else otherwise
