"""Outputs that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError


def refuse_url(path: str | Path) -> None:
    """Refuse a URL where a folder or file of this machine is expected.

    Raises
    ------
    UserError
        If it is one.
    """
    if found := re.match(r"([a-z][a-z0-9+.-]+):/", str(path)):
        raise UserError(
            f"{path} is a URL ({found[1]}), and only local folders are read and written; copy it here first, or mount "
            "the storage"
        )


def _beside(path: Path) -> Path:
    refuse_url(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"


def sync(path: Path) -> None:
    """Wait until a file's or a folder's contents are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises
    ------
    UserError
        If ``path`` exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; name another folder or remove this one first")
    scratch = _beside(path)
    scratch.mkdir()
    try:
        yield scratch
        for file in scratch.rglob("*"):
            sync(file)
        replaced = _beside(path)
        if path.exists():
            path.rename(replaced)
        scratch.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def resumable_folder(path: str | Path, made_with: Any) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well and is found again when it does not.

    The scratch folder is ``.<name>.partial`` beside ``path``. What a stopped job left there is kept if that job was
    started with the same ``made_with`` (anything that JSON can hold), and removed otherwise. One that holds nothing
    when the block fails is removed.

    Raises
    ------
    UserError
        If ``path`` exists, or another process is at work on it.
    """
    refuse_url(path)
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; name another folder or remove this one first")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch, lock = path.parent / f".{path.name}.partial", path.parent / f".{path.name}.lock"
    with open(lock, "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {path}; wait for it, or name another folder") from None
        made = scratch / "made_with.json"
        if not made.exists() or read_json(made) != json.loads(json.dumps(made_with)):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            write_json(made, made_with)
        try:
            yield scratch
            made.unlink()
            for file in [*scratch.rglob("*"), scratch]:
                sync(file)
            scratch.rename(path)
        finally:
            if scratch.exists() and not any(file != made for file in scratch.iterdir()):
                shutil.rmtree(scratch)
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Yield a scratch path to write; it replaces ``path`` when the block ends well.

    Where not ``synced``, a power cut may still lose what was written; the end of the process does not.
    """
    path = Path(path)
    scratch = _beside(path)
    try:
        yield scratch
        if synced:
            sync(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, synced: bool = True) -> None:
    """Write ``value`` as indented JSON, whole or not at all; see :func:`whole_file`."""
    with whole_file(path, synced) as scratch:
        scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        If the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_json_lines(path: str | Path) -> list[Any]:
    """Read a file that holds a JSON value a line.

    Raises
    ------
    UserError
        If the file is missing or a line is not JSON.
    """
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise UserError(f"{path} does not hold valid JSON in every line: {error}") from None


def digest(paths: Iterable[str | Path]) -> str:
    """A hexadecimal digest (32 characters) of the contents of some files, in the order given."""
    running = hashlib.blake2b(digest_size=16)
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                running.update(block)
    return running.hexdigest()
