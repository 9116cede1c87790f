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

from data_tools.common.cache import held
from data_tools.common.cli import progress_bar
from data_tools.common.errors import UserError, seen_from
from data_tools.common.files import check_digests, read_json
from data_tools.common.storage import exists, sizes

FORMAT_VERSION = 3  # 3: each picture once, and requests as tables that refer to them
SEVERAL_PICTURES = 4  # as 3, with items that have further pictures
READABLE = (2, FORMAT_VERSION, SEVERAL_PICTURES)  # folders of version 2 are of the layout "streaming"
COPY_AGAIN = "copy it again from where it was made, or write the shards again"


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


def member_size(length: int) -> int:
    """Bytes that a member of ``length`` bytes takes in a tar: its header, itself and its padding."""
    return tarfile.BLOCKSIZE + length + -length % tarfile.BLOCKSIZE


def encode_json(value: dict[str, Any]) -> bytes:
    """A record as a shard holds it."""
    return json.dumps(value, ensure_ascii=False).encode()


def read_shard(path: Path, pictures: bool = True) -> tuple[dict[int, bytes], list[dict[str, Any]]]:
    """Read one tar: picture bytes by item, and its JSON records (requests, or items of the catalogue).

    Parameters
    ----------
    pictures : bool
        Read the pictures' bytes; without, they are passed over.

    Raises
    ------
    UserError
        If the tar ends in the middle of a member.
    """
    images: dict[int, bytes] = {}
    records: list[dict[str, Any]] = []
    with tarfile.open(path, "r:") as tar:
        for member, key, extension in _members(tar, path):
            if extension == "json":
                records.append(json.loads(tar.extractfile(member).read()))
            elif pictures:
                images[item_of(key)] = tar.extractfile(member).read()
    return images, records


def picture_places(path: Path) -> Iterator[tuple[int, int, int]]:
    """(item, offset, length) of each picture of a tar, from its headers alone."""
    with tarfile.open(path, "r:") as tar:
        for member, key, extension in _members(tar, path):
            if extension != "json":
                yield item_of(key), member.offset_data, member.size


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    try:
        while member := tar.next():
            tar.members = []  # or it would keep all of them
            yield member, *member.name.rsplit(".", 1)
    except tarfile.TarError as error:
        raise UserError(f"{path} is damaged: {error}; {COPY_AGAIN}") from None


def item_of(key: str) -> int:
    """The item that a picture of this key is of."""
    return int(key.lstrip("i"))


def files_of(index: dict[str, Any]) -> list[dict[str, Any]]:
    """What an index says of every file, catalogue first."""
    tables = [index[name] for name in ("table", "near_duplicates") if name in index]
    return [*index["items"], *tables, *(shard for split in index["requests"].values() for shard in split)]


def read_index(shards: str | Path, digests: bool = False) -> dict[str, Any]:
    """Read a shard folder's index and check that its files are there with the promised sizes, and digests if asked.

    Raises
    ------
    UserError
        Naming the first file that is missing, of another size or of another digest, or the format's version if it is
        another.
    """
    folder = Path(shards)
    if not exists(folder / "index.json"):
        raise UserError(
            f"{folder} holds no shards (no index.json{seen_from(folder)}); write them with: python -m data_tools.shards"
        )
    index = read_json(folder / "index.json")
    if index.get("format_version") not in READABLE:
        found = index.get("format_version")
        again = f"python -m data_tools.shards --dataset {index.get('dataset', 'DATASET')} --out {folder}"
        raise UserError(
            f"{folder} has shard format {found}, {' and '.join(map(str, READABLE))} are read; remove the folder and "
            f"write the shards again with: {again}"
        )
    listed = files_of(index)
    for shard, size in zip(listed, sizes(folder, [shard["file"] for shard in listed]), strict=True):
        if size is not None and size != shard["bytes"]:
            file = folder / shard["file"]
            raise UserError(f"{file} has {size} bytes, the index promises {shard['bytes']}; {COPY_AGAIN}")
    if digests:
        with progress_bar() as progress:
            for shard in progress.track(listed, description="checking shards"):
                with held(folder / shard["file"]) as file:
                    check_shard(file, shard["digest"])
    return index


def check_shard(file: Path, promised: str) -> None:
    """Compare a file's digest with the one that the index promises; another one is a UserError."""
    check_digests({file: promised}, "the index", COPY_AGAIN)
