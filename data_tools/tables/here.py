"""Tables at URLs, brought to this machine."""

from __future__ import annotations

from pathlib import Path

from data_tools.common.cache import local, mirrored
from data_tools.common.files import read_json
from data_tools.common.storage import exists, is_url
from data_tools.tables.files import ids_names


def here(path: str | Path) -> Path:
    """A table, at a path or a URL, as files of this machine: all of them, until this process ends.

    Raises
    ------
    UserError
        If there is nothing, or it cannot be fetched.
    """
    path = Path(path)
    if not is_url(path):
        return path
    if exists(path / "table.json"):
        parts = read_json(path / "table.json").get("parts")
        return mirrored(path, parts and ["table.json", *parts])
    if exists(path):
        beside = (path.with_name(name) for name in ids_names(path))
        for ids in filter(exists, beside):
            local(ids)
        return local(path)
    return mirrored(path)
