"""The files of a shard folder: tars written and read, and the index that says what they hold.

The format is described in :mod:`data_tools.shards`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import digest, read_json

FORMAT_VERSION = 2  # 2: requests say how many clicks are fresh


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """Write one shard (same members, same bytes) and describe it: file, bytes, digest.

    The bytes are those of webdataset's TarWriter, in less time: that one copies each member several times.
    """
    running, size = hashlib.blake2b(digest_size=16), 0
    with open(path, "wb") as file:
        for block in _blocks(members):
            running.update(block)
            size += file.write(block)
        size += file.write(end := bytes(2 * tarfile.BLOCKSIZE + -(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))
        running.update(end)
        file.flush()
        if hasattr(os, "posix_fadvise"):
            # The disk begins now, while the next shard is written; who waits for it is the end of the job.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return {"file": path.name, "bytes": size, "digest": running.hexdigest()}


def _blocks(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    info = tarfile.TarInfo()
    info.mode, info.uname, info.gname = 0o444, "bigdata", "bigdata"
    for name, data in members:
        info.name, info.size = name, len(data)
        yield info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def encode_json(value: dict[str, Any]) -> bytes:
    """A record as it stands in a shard."""
    return json.dumps(value, ensure_ascii=False).encode()


def read_shard(path: Path) -> tuple[dict[int, bytes], list[dict[str, Any]]]:
    """Read one tar: picture bytes by item, and its JSON records (requests, or items of the catalogue)."""
    import webdataset as wds  # here, since it loads torch, which processes that write have no need of

    images: dict[int, bytes] = {}
    records: list[dict[str, Any]] = []
    with open(path, "rb") as stream:
        for member in wds.tariterators.tar_file_iterator(stream):
            key, extension = member["fname"].rsplit(".", 1)
            if extension == "json":
                records.append(json.loads(member["data"]))
            else:
                images[int(key.lstrip("i"))] = member["data"]
    return images, records


def shards_of(index: dict[str, Any]) -> list[dict[str, Any]]:
    """What an index says of every file, catalogue first."""
    return [*index["items"], *(shard for split in index["requests"].values() for shard in split)]


def read_index(shards: str | Path, digests: bool = False) -> dict[str, Any]:
    """Read a shard folder's index and check that its files are there with the promised sizes, and digests if asked.

    Raises
    ------
    UserError
        Naming the first file that is missing, of another size or of another digest, or the format's version if it is
        another.
    """
    folder = Path(shards)
    if not (folder / "index.json").exists():
        raise UserError(f"{folder} holds no shards (no index.json); write them with: python -m data_tools.shards")
    index = read_json(folder / "index.json")
    if index.get("format_version") != FORMAT_VERSION:
        found = index.get("format_version")
        again = f"python -m data_tools.shards --dataset {index.get('dataset', 'DATASET')} --out {folder}"
        raise UserError(
            f"{folder} has shard format {found}, {FORMAT_VERSION} is read; remove the folder and write the shards anew "
            f"with: {again}"
        )
    for shard in shards_of(index):
        file = folder / shard["file"]
        size = file.stat().st_size if file.exists() else 0
        if size != shard["bytes"]:
            raise UserError(f"{file} has {size} bytes, the index promises {shard['bytes']}; write the shards again")
    if digests:
        _check_digests(folder, index)
    return index


def _check_digests(folder: Path, index: dict[str, Any]) -> None:
    with progress_bar() as progress:
        for shard in progress.track(shards_of(index), description="checking shards"):
            found = digest([folder / shard["file"]])
            if found != shard["digest"]:
                raise UserError(
                    f"{folder / shard['file']} has digest {found}, the index promises {shard['digest']}: the file was "
                    "damaged or changed; copy it again from where it was made, or write the shards again"
                )
