"""Files at URLs as files of this machine: whole copies in a folder of bounded size; the least recently used go first.

The folder holds ``files/<scheme>/<host and path>``, a copy of each file that was asked for, and beside it the version
that the storage gave it (its ETag or time); another version is fetched again. What a process reads it holds, by a
shared lock that the system frees when the process ends: a file that someone holds is never removed. ``outgoing/``
is where what goes to a URL is written first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from data_tools.common.errors import UserError
from data_tools.common.locks import is_still, locked
from data_tools.common.storage import Info, download, info, is_url, listed, url_of

# In the environment, where all processes that a command starts find them.
FOLDER, GIGABYTES = "VISUAL_INTEREST_URL_CACHE", "VISUAL_INTEREST_URL_CACHE_GB"
DEFAULT_GIGABYTES = 50.0
ROOM_PATIENCE = 30  # seconds to wait for others to let go of files
FETCHED_AT_ONCE = 4

_known: dict[str, Info] = {}  # answers of storages, asked once per process
_kept: dict[str, tuple[int, Path]] = {}  # held until the process ends


def configure(folder: str | None, gigabytes: float | None) -> None:
    """Set where copies are kept, and how many gigabytes (10^9 bytes) of them; None leaves it as it is."""
    if folder is not None:
        os.environ[FOLDER] = os.path.abspath(folder)
    if gigabytes is not None:
        os.environ[GIGABYTES] = str(gigabytes)


def cache_folder() -> Path:
    """Where copies are kept: as set, or in the user's folder for such."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(home) / "visual-interest" / "urls")


def cache_bytes() -> int:
    """How many bytes the copies may take together."""
    return int(float(os.environ.get(GIGABYTES) or DEFAULT_GIGABYTES) * 1e9)


def staged(path: str | Path) -> Path:
    """Where what goes to a path is written first: at its own place, or for a URL in the cache folder."""
    if not is_url(path):
        return Path(path)
    place = cache_folder() / "outgoing" / _digest(url_of(path)) / Path(path).name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def copy_of(path: str | Path) -> Path:
    """Where the copy of what is at a path or URL is kept, whether there is one or not."""
    return _place(url_of(path)) if is_url(path) else Path(path)


def _place(url: str) -> Path:
    """Where the copy of a URL is kept; folders and names are the URL's own, so that messages can name them."""
    plain, query, _ = url.partition("?")
    parts = [part if part.strip(".") else f"%{part}" for part in plain.replace("://", "/").split("/") if part]
    if query:
        parts.insert(-1, _digest(url))
    return cache_folder().joinpath(
        "files", *(part if len(part) < 200 else _digest(part) + part[-40:] for part in parts)
    )


@contextlib.contextmanager
def held(path: str | Path) -> Iterator[Path]:
    """A file, at a path or a URL, as a file of this machine that stays at least as long as the block runs.

    Raises
    ------
    UserError
        If it cannot be fetched, or does not fit into the cache together with what is in use.
    """
    if not is_url(path):
        yield Path(path)
        return
    descriptor, file = _hold(path)
    try:
        yield file
    finally:
        os.close(descriptor)


def local(path: str | Path) -> Path:
    """As :func:`held`, until this process ends."""
    if not is_url(path):
        return Path(path)
    url = url_of(path)
    if url not in _kept:
        _allow_many_files()
        _kept[url] = _hold(path)
    return _kept[url][1]


@cache
def _allow_many_files() -> None:
    """Let this process have as many files open as the system lets it: each file that is held is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def mirrored(folder: str | Path, names: Sequence[str] | None = None) -> Path:
    """A folder, at a path or a URL, as one of this machine, with some of its files or all, until this process ends.

    Raises
    ------
    UserError
        As :func:`held`.
    """
    if not is_url(folder):
        return Path(folder)
    names = list(listed(folder)) if names is None else names
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        list(pool.map(lambda name: local(Path(folder) / name), names))
    return _place(url_of(folder))


def forget(path: str | Path) -> None:
    """Ask the storage again what is at a URL, or below it: this process changed it."""
    url = url_of(path)
    for known in (_known, _kept):
        for one in [one for one in known if one == url or one.startswith(f"{url}/")]:
            known.pop(one)


def check_room(size: int, what: str, instead: str) -> None:
    """Refuse what is read at random, again and again, and does not fit into the cache.

    Parameters
    ----------
    size : int
        Its bytes.
    what, instead : str
        What it is, and what else can be done, for the message.

    Raises
    ------
    UserError
        If it does not fit.
    """
    if size > cache_bytes():
        raise UserError(
            f"{what} takes {size / 1e9:,.1f} GB, and the cache of files at URLs, {cache_folder()}, may hold "
            f"{cache_bytes() / 1e9:,.1f} GB; raise --url_cache_gb, or {instead}"
        )


def _hold(path: str | Path) -> tuple[int, Path]:
    """A descriptor that holds a URL's copy, fetched where there is none or an old one, and its place."""
    url = url_of(path)
    if url not in _known:
        _known[url] = info(path)
    known, file = _known[url], _place(url)
    while True:
        if _version(file) == known.version and (descriptor := _shared(file)) is not None:
            return descriptor, file
        _fetch(path, known, file)


def _version_file(file: Path) -> Path:
    return file.with_name(f".{file.name}.version")


def _version(file: Path) -> str | None:
    try:
        return _version_file(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _shared(file: Path) -> int | None:
    """A descriptor with a shared lock on a file, whose last use is now; None where it has gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a disk without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if is_still(file, descriptor):
        # Its last change stays what it was: caches of what was made of it go by that.
        os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
        return descriptor
    os.close(descriptor)
    return None


def _fetch(path: str | Path, known: Info, file: Path) -> None:
    """Make the copy of a URL, one process at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file, wait=True):
        if _version(file) == known.version and file.exists():
            return
        scratch = file.with_name(f".{file.name}.partial")
        descriptor = _make_room(scratch, known.size or 0, url_of(path))
        try:
            download(path, known, scratch)
            _version_file(file).unlink(missing_ok=True)
            scratch.replace(file)
            _version_file(file).write_text(known.version, encoding="utf-8")
        finally:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)
    if known.size is None:
        _make_room(None, 0, url_of(path))


def _make_room(scratch: Path | None, size: int, url: str) -> int:
    """Make room for a file of so many bytes, and the file itself, empty but of that size; its locked descriptor.

    Raises
    ------
    UserError
        If it is larger than the cache may be, or than what can be removed.
    """
    files = cache_folder() / "files"
    check_room(size, url, "use a smaller file")
    until = time.monotonic() + ROOM_PATIENCE
    while True:
        with locked(files, wait=True, purpose="room"):
            kept = _evict(files, cache_bytes() - size)
            if kept + size <= cache_bytes():
                return _reserved(scratch, size) if scratch else -1
        if time.monotonic() > until:
            raise UserError(
                f"{url} needs {size / 1e9:,.2f} GB, but the cache of files at URLs, {cache_folder()}, is full: "
                f"{kept / 1e9:,.2f} of {cache_bytes() / 1e9:,.2f} GB are in use; raise --url_cache_gb, and the same "
                "command continues"
            )
        time.sleep(0.2)


def _reserved(scratch: Path, size: int) -> int:
    scratch.unlink(missing_ok=True)  # of a process that was killed
    descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(OSError):  # a disk without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.ftruncate(descriptor, size)  # counts from now on
    return descriptor


def _copies(files: Path) -> Iterator[Path]:
    """All copies, whole or on their way; nothing else in the folder."""
    for folder, inner, names in os.walk(files):
        inner[:] = [name for name in inner if not name.startswith(".")]
        copied = set(names)
        yield from (Path(folder) / one for one in names if f".{one}.version" in copied or one.endswith(".partial"))


def _evict(files: Path, most: int) -> int:
    """Remove the least recently used copies that nobody holds until all take at most so many bytes; what they take."""
    found = []
    for file in _copies(files):
        with contextlib.suppress(FileNotFoundError):
            found.append((file.stat().st_atime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= most:
            break
        total -= size if _remove_unless_held(file) else 0
    return total


def _remove_unless_held(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _version_file(file).unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        return True
    except OSError:  # held, or a disk without locks, where nothing is known to be free
        return False
    finally:
        os.close(descriptor)
