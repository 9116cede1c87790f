"""Files at URLs: s3://, gs://, hf://, https://, memory:// and whatever else fsspec knows.

A URL is passed around as a :class:`~pathlib.Path` like any other place, so that ``folder / name`` works for both;
:func:`url_of` restores the slash that it loses there. What reads a file asks :mod:`data_tools.common.cache` for it;
what writes one is in :mod:`data_tools.common.files`. Each request is tried several times, with growing pauses,
unless the answer is that there is no such file or that it is not for this user.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec

from data_tools.common.errors import UserError

T = TypeVar("T")

TRIES = 5
PAUSE = 0.5  # seconds before the second try; doubled before each further one
STALL = 30  # seconds without a byte, after which a request is given up
AT_ONCE = 16  # requests for small files
BLOCK = 1 << 25  # bytes of a large file that are asked for at a time
# What says of a folder that all of it is there: uploaded last.
MANIFESTS = ("dataset.json", "index.json", "table.json", "store.json", "image_feat.npy")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http", "hf": "hf"}
# Names that storages give to what changes whenever a file does.
VERSIONS = ("ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "LastModified", "Last-Modified", "mtime", "created")
URL = re.compile(r"([a-z][a-z0-9+.-]+):/+")


class Missing(UserError):
    """There is nothing at a URL."""


class NoParts(UserError):
    """A web server sends files as a whole only."""


class Info(NamedTuple):
    """A file at a URL: its size in bytes, where known, and what changes with its contents."""

    size: int | None
    version: str


def is_url(path: str | Path | None) -> bool:
    """Whether a path is a URL, and not a file or folder of this machine."""
    return bool(URL.match(str(path)))


def url_of(path: str | Path) -> str:
    """The URL that a path stands for, with both of its slashes."""
    scheme = URL.match(str(path))
    return f"{scheme[1]}://{str(path)[scheme.end() :]}"


def shown(path: str | Path) -> str:
    """A path, or a URL with both of its slashes, for messages."""
    return url_of(path) if is_url(path) else str(path)


def _options(scheme: str) -> dict[str, Any]:
    """What fsspec needs to know to notice a silent server, and to cache nothing that may change."""
    if scheme in ("http", "https"):
        import aiohttp  # an extra

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)}}
    if scheme in ("s3", "s3a"):
        waits = {"connect_timeout": STALL, "read_timeout": STALL, "retries": {"max_attempts": 0}}
        return {"config_kwargs": waits, "use_listings_cache": False}
    return {}


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path of the URL in it."""
    scheme = url.partition("://")[0]
    if scheme == "file":
        raise UserError(f"{url}: name the file itself, without file://")
    try:
        system = _opened(scheme, os.getpid())
    except ImportError as error:
        wanted = f"pip install 'visual-interest[{EXTRAS[scheme]}]'" if scheme in EXTRAS else str(error)
        raise UserError(f"{url}: support for {scheme}:// is not installed; {wanted}") from None
    except ValueError:
        raise UserError(f"{url}: unknown URL scheme {scheme}://; s3, gs, hf and https are supported") from None
    return system, system._strip_protocol(url)


@lru_cache
def _opened(scheme: str, process: int) -> Any:
    """One file system for all threads of a process: of its own, fsspec opens one for each."""
    system = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
    if hasattr(system, "retries"):
        system.retries = 1  # s3fs would repeat each of our tries
    return system


def retried(url: str, do: Callable[[Any, str], T]) -> T:
    """What ``do(file system, path)`` returns, tried again where the storage fails.

    Raises
    ------
    Missing
        If there is nothing at the URL.
    UserError
        Naming the URL, what the storage says, and what to do.
    """
    system, path = _system(url)
    for attempt in itertools.count(1):
        try:
            return do(system, path)
        except UserError:
            raise
        except Exception as error:  # each storage's library raises its own errors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            _raise_final(url, error, last=attempt == TRIES)
            time.sleep(PAUSE * 2 ** (attempt - 1))


def _raise_final(url: str, error: Exception, last: bool) -> None:
    """Raise what ends a request: an answer that stays as it is, or the last of several faults."""
    chain = list(_chain(error))
    status = next(filter(None, map(_status, chain)), None)
    if status is None and not any(map(_of_network, chain)):  # fsspec says "not found" for these, too
        status = {FileNotFoundError: 404, PermissionError: 403}.get(type(error))
    if status in (404, 410):
        raise Missing(f"{url} does not exist (status {status}); check the address, and that all of it was uploaded")
    if status in (401, 403) or any("credentials" in type(one).__name__.lower() for one in chain):
        said = f"status {status}" if status else f"{error}"
        raise UserError(
            f"{url}: access is denied ({said}); log in with the storage's own tools (such as AWS_PROFILE or gcloud "
            "auth), as an account that has access"
        ) from None
    if status and 400 <= status < 500 and status not in (408, 429):
        raise UserError(f"{url}: the storage refused the request (status {status}: {chain[-1]})") from None
    if last:
        silent = any(isinstance(one, TimeoutError) or "timeout" in type(one).__name__.lower() for one in chain)
        said = f"status {status}" if status else f"no answer for {STALL} s" if silent else _said(chain[-1])
        raise UserError(
            f"{url}: the storage failed {TRIES} times ({said}); the same command continues where it stopped, once the "
            "storage answers"
        ) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_network(error: BaseException) -> bool:
    return isinstance(error, TimeoutError | ConnectionError) or type(error).__module__.startswith("aiohttp")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about."""
    response = getattr(error, "response", None)
    found = [
        response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None,  # botocore
        getattr(response, "status_code", None),  # Hugging Face
        getattr(error, "status", None),  # aiohttp
        getattr(error, "code", None) if type(error).__module__.startswith("gcsfs") else None,
    ]
    return next((int(one) for one in found if str(one).isdigit()), None)


def info(path: str | Path) -> Info:
    """What a storage says of a file.

    Raises
    ------
    Missing
        If there is none.
    """
    url = url_of(path)
    found = retried(url, lambda system, path: system.info(path))
    if found["type"] == "directory":
        raise Missing(f"{url} is a folder, not a file")
    version = next((str(found[name]) for name in VERSIONS if found.get(name)), "")
    return Info(found.get("size"), f"{version} {found.get('size')}")


def exists(path: str | Path) -> bool:
    """Whether there is a file at a path or URL, or, of this machine, a folder."""
    if not is_url(path):
        return Path(path).exists()
    try:
        info(path)
    except Missing:
        return False
    return True


def taken(path: str | Path) -> bool:
    """Whether a place holds something whole: at a URL, a file or a folder with one of ``MANIFESTS``."""
    if not is_url(path):
        return os.path.lexists(path)  # a dangling link, too
    return exists(path) or any(exists(Path(path) / name) for name in MANIFESTS)


def listed(path: str | Path) -> dict[str, int | None]:
    """The files below a URL: name from there on -> size in bytes, where it is known."""
    found = retried(url_of(path), lambda system, root: (root, system.find(root, detail=True)))
    root = found[0].rstrip("/")
    return {name.removeprefix(root).lstrip("/"): one.get("size") for name, one in sorted(found[1].items())}


def matches(path: str | Path) -> list[Path]:
    """The files that a URL stands for: itself, all below it, or those that it is a glob of; hidden ones too."""
    url = url_of(path)
    if any(mark in url for mark in "*["):
        found = retried(url, lambda system, path: sorted(map(system.unstrip_protocol, system.glob(path))))
        return list(map(Path, found))
    return [Path(path)] if exists(path) else [Path(path) / name for name in listed(path)]


def sizes(folder: Path, names: Sequence[str]) -> list[int | None]:
    """Bytes of some files in a folder or below a URL: 0 of one that is missing, None where the storage does not say."""
    if not is_url(folder):
        return [file.stat().st_size if (file := folder / name).is_file() else 0 for name in names]
    if not url_of(folder).startswith("http"):
        found = listed(folder)
        return [found.get(name, 0) for name in names]

    def size(name: str) -> int | None:
        try:
            return info(folder / name).size
        except Missing:
            return 0

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(size, names))


def read(path: str | Path) -> bytes:
    """The bytes of a file, of this machine or at a URL, which leave no copy here.

    Raises
    ------
    UserError
        If a URL cannot be read.
    """
    if not is_url(path):
        return Path(path).read_bytes()
    return retried(url_of(path), lambda system, path: system.cat_file(path))


def contents(paths: Iterable[Path]) -> Iterator[bytes]:
    """The bytes of files in order; those at URLs are asked for ahead, several at a time."""
    ahead: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool, contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for path in paths:
            if not is_url(path):
                yield read(path)
                continue
            ahead.append(pool.submit(read, path))
            if len(ahead) > 2 * AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def download(path: str | Path, known: Info, target: Path) -> None:
    """Write a file at a URL to a file that exists, in parts where the storage serves such, each tried by itself.

    Raises
    ------
    UserError
        If it cannot be read, or changes meanwhile.
    """
    url = url_of(path)
    try:
        if known.size is None or known.size <= BLOCK:
            raise NoParts
        with open(target, "r+b") as file:
            for start in range(0, known.size, BLOCK):
                stop = min(start + BLOCK, known.size)
                file.write(retried(url, lambda system, path, start=start, stop=stop: _part(system, path, start, stop)))
    except NoParts:
        retried(url, lambda system, path: _whole(system, path, known.size, target))
    if info(path) != known:
        raise UserError(f"{url} changed while it was read; run the same command again")


def _whole(system: Any, path: str, size: int | None, target: Path) -> None:
    system.get_file(path, str(target))
    if size is not None and (found := target.stat().st_size) != size:
        raise OSError(f"{found} of {size} bytes came")


def _part(system: Any, path: str, start: int, stop: int) -> bytes:
    if path.startswith("http"):
        # In the way that asks whether the server sent the part, before it reads a file that may be of any size.
        with system.open(path, "rb", block_size=stop - start, cache_type="none") as file:
            file.seek(start)
            try:
                data = file.read(stop - start)
            except ValueError:
                raise NoParts from None
    else:
        data = system.cat_file(path, start, stop)
    if len(data) != stop - start:
        raise OSError(f"{len(data)} of {stop - start} bytes came")
    return data


def upload(source: Path, target: str | Path, but: Sequence[str] = ()) -> None:
    """Copy a file, or all files of a folder except some, to a URL; what says that the folder is whole comes last.

    Raises
    ------
    UserError
        If the storage takes no files or fails.
    """
    refuse_to_write(target)
    if source.is_file():
        _put(source, url_of(target))
        return
    names = [file.relative_to(source).as_posix() for file in sorted(source.rglob("*")) if file.is_file()]
    names = [name for name in names if name not in but]
    first, last = ([name for name in names if (name in MANIFESTS) is whole] for whole in (False, True))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: _put(source / name, url_of(Path(target) / name)), first))
    for name in last:
        _put(source / name, url_of(Path(target) / name))


def _put(source: Path, url: str) -> None:
    retried(url, lambda system, path: system.put_file(str(source), path))


def refuse_to_write(path: str | Path) -> None:
    """Raise a UserError if a path is a URL that can be read alone."""
    if is_url(path) and url_of(path).startswith("http"):
        raise UserError(
            f"{url_of(path)}: nothing can be written to a web server; name a folder, or a bucket: s3://, gs://"
        )


def remove(path: str | Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if is_url(path):
        with contextlib.suppress(Missing):
            retried(url_of(path), lambda system, path: system.rm(path, recursive=True))
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)
