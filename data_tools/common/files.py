"""Outputs that appear complete or not at all: written under a temporary name, then renamed.

An unfinished output is next to its place, under a hidden name, ``.NAME.partial-...``. One process at a time writes a
place (:mod:`data_tools.common.locks`), so such a file that is there when another starts was left by one that was
killed, and is removed.

What goes to a URL is made in the same way on this machine (:func:`data_tools.common.cache.staged`) and then uploaded,
what says that it is whole last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_tools.common.cache import forget, local, staged
from data_tools.common.errors import UserError
from data_tools.common.locks import locked
from data_tools.common.places import check_file, check_place
from data_tools.common.storage import is_url, refuse_to_write, taken, upload, url_of

MADE_WITH = "made_with.json"


def refuse_url(path: str | Path | None, what: str) -> None:
    """Refuse a URL for what changes while a command works on it.

    Raises
    ------
    UserError
        If it is one.
    """
    if is_url(path):
        raise UserError(
            f"{url_of(path)}: {what} is a folder of this machine; datasets, shards and tables can be at URLs"
        )


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"


def _left_behind(path: Path, purpose: str) -> list[Path]:
    """Scratch files and folders of a place, for one purpose."""
    prefix = f".{path.name}.{purpose}-"
    return [one for one in path.parent.iterdir() if one.name.startswith(prefix)] if path.parent.is_dir() else []


def _clear(path: Path, purpose: str) -> None:
    """Remove the scratch folders that a killed process left; only for who holds the place."""
    for left in _left_behind(path, purpose):
        shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's or a folder's contents are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(path: str | Path) -> None:
    """Refuse to make what is there already, or what cannot be written to.

    Raises
    ------
    UserError
        If a file, a folder or a link is there, or it is a URL of a web server.
    """
    refuse_to_write(path)
    check_place(path)
    if taken(path):
        for purpose, lock in (("partial", ""), ("work", "work")):  # of one that was killed when its result was whole
            with contextlib.suppress(UserError), locked(staged(path), purpose=lock) as held:
                if held:
                    _clear(staged(path), purpose)
        raise UserError(f"{path} exists already; choose another name, or remove it first")


def _upload(scratch: Path, place: Path, url: str | Path) -> None:
    """Move what is finished to a URL; where the storage fails, keep it at ``place``."""
    try:
        upload(scratch, url, but=[MADE_WITH])
    except UserError as error:
        shutil.rmtree(place, ignore_errors=True)
        scratch.rename(place)
        raise UserError(f"{error}. The files to be uploaded are in {place}") from None
    finally:
        forget(url)
    shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


@contextlib.contextmanager
def whole_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises
    ------
    UserError
        Unless ``overwrite``: if ``path`` exists, or another process is writing it.
    """
    target, path = path, staged(path)
    if not overwrite:
        refuse_existing(target)
    with locked(path, wait=overwrite) as held:
        if not overwrite:
            refuse_existing(target)  # another process may have made it meanwhile
        if held:
            _clear(path, "partial")
        scratch = _beside(path)
        scratch.mkdir()
        try:
            yield scratch
            if is_url(target):
                _upload(scratch, path, target)
                return
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
def work_folder(path: str | Path) -> Iterator[Path]:
    """Yield a scratch folder next to ``path``, which is to be made.

    Raises
    ------
    UserError
        If ``path`` exists, or another process is writing it.
    """
    refuse_existing(path)
    path = staged(path)
    with locked(path, purpose="work") as held:
        if held:
            _clear(path, "work")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.work-") as work:
            yield Path(work)


@contextlib.contextmanager
def resumable_folder(path: str | Path, made_with: Any) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well and is found again when it does not.

    The scratch folder is ``.<name>.partial`` next to ``path``. What a stopped job left there is kept if that job was
    started with the same ``made_with`` (anything that JSON can hold), and removed otherwise. A scratch folder that is
    still empty when the block fails is removed. One that could not be uploaded is found again, too.

    Raises
    ------
    UserError
        If ``path`` exists, or another process is writing it.
    """
    refuse_existing(path)
    target, path = path, staged(path)
    scratch = path.parent / f".{path.name}.partial"
    with locked(path):
        refuse_existing(target)
        made = scratch / MADE_WITH
        if not made.exists() or read_json(made, object) != json.loads(json.dumps(finite(made_with))):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            write_json(made, made_with)
        try:
            yield scratch
            if is_url(target):
                upload(scratch, target, but=[MADE_WITH])
                forget(target)
                shutil.rmtree(scratch)
                return
            made.unlink()
            for file in [*scratch.rglob("*"), scratch]:
                sync(file)
            scratch.rename(path)
        finally:
            if scratch.exists() and not any(file != made for file in scratch.iterdir()):
                shutil.rmtree(scratch)


@contextlib.contextmanager
def whole_file(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Yield a scratch path to write; it replaces ``path`` when the block ends well.

    Where not ``synced``, a power cut may still lose what was written; the end of the process does not. Several
    processes may write a file at once: the last one stays.
    """
    refuse_to_write(path)
    target, path = path, staged(path)
    for left in _left_behind(path, "partial"):
        _remove_if_free(left)
    scratch = _beside(path)
    held = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield scratch
        if is_url(target):
            _upload(scratch, path, target)
            return
        if synced:
            sync(scratch)
        check_file(path)
        scratch.replace(path)
    finally:
        os.close(held)
        scratch.unlink(missing_ok=True)


def _remove_if_free(scratch: Path) -> None:
    """Remove a scratch file unless the process that made it still runs, and so holds it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(scratch, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratch.unlink()
        finally:
            os.close(descriptor)


def finite(value: Any) -> Any:
    """``value`` with None for every NaN and infinity, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def write_json(path: str | Path, value: Any, synced: bool = True) -> None:
    """Write ``value`` as indented strict JSON (null for NaN), whole or not at all; see :func:`whole_file`."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path, synced) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Read a JSON file that holds an object, or a value of another ``kind``, of this machine or at a URL.

    Raises
    ------
    UserError
        If the file is missing, or holds something else.
    """
    try:
        found = json.loads(local(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, kind):
        wanted = {dict: "an object {...}", list: "a list [...]"}.get(kind, f"a {kind.__name__}")
        raise UserError(f"{path} does not hold {wanted}, as it did when it was written; copy it again")
    return found


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


def digests(paths: Sequence[Path]) -> dict[Path, str]:
    """The digest of each of some files; of several at once, since hashing lets other threads run."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(lambda path: digest([path]), paths), strict=True))


def check_digests(promised: Mapping[Path, str], by: str, remedy: str) -> None:
    """Compare the digests of files with those that were recorded when they were written.

    Parameters
    ----------
    promised : dict of Path to str
        File -> its recorded digest.
    by, remedy : str
        What records them, and what to do, for the message.

    Raises
    ------
    UserError
        Naming the first file that has another.
    """
    for file, found in digests(list(promised)).items():
        if found != promised[file]:
            raise UserError(
                f"{file} has digest {found}, {by} promises {promised[file]}: the file was damaged or changed; {remedy}"
            )
