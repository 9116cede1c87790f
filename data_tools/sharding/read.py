"""A shard folder as its readers see it, whatever its layout: groups of records, and pictures by item."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from data_tools.common.cache import check_room, held
from data_tools.common.cli import UserError
from data_tools.common.storage import is_url, url_of
from data_tools.sharding.files import COPY_AGAIN, check_shard, files_of, picture_places, read_index, read_shard
from data_tools.sharding.tables import PLACE, GroupedTable

OPEN_FILES = 256  # tars that a process keeps open
OPEN_COPIES = 2  # the same of tars at URLs, whose copies the cache can remove only where nobody has them open


class Place(NamedTuple):
    """Where the picture of an item is: ``length`` bytes of a file from ``offset`` on, and their checksum if known."""

    item: int
    file: Path
    offset: int
    length: int
    crc32: int | None


class PlaceReader:
    """Reads pictures from their places.

    Each is one ``pread``, so that processes which share the open files do not disturb each other; the system's page
    cache keeps what is asked for often. Of a tar at a URL the whole is fetched first, into the cache.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[int, ExitStack]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return PlaceReader, ()

    def __call__(self, place: Place) -> bytes:
        """The bytes of a picture.

        Raises
        ------
        UserError
            If they are not what was written, naming the file and the place.
        """
        data = os.pread(self._descriptor(place.file), place.length, place.offset)
        if len(data) != place.length or (place.crc32 is not None and zlib.crc32(data) != place.crc32):
            raise UserError(
                f"{place.file} is damaged: the picture of item {place.item}, {place.length} bytes at {place.offset}, "
                f"is not the one that was written; {COPY_AGAIN}"
            )
        return data

    def _descriptor(self, file: Path) -> int:
        if file not in self._open:
            if len(self._open) >= (OPEN_COPIES if is_url(file) else OPEN_FILES):
                self._open.popitem(last=False)[1][1].close()
            with ExitStack() as stack:
                descriptor = os.open(stack.enter_context(held(file)), os.O_RDONLY)
                stack.callback(os.close, descriptor)
                self._open[file] = descriptor, stack.pop_all()
        self._open.move_to_end(file)
        return self._open[file][0]

    def __del__(self) -> None:
        for _, stack in self._open.values():
            stack.close()


class PlacedPictures:
    """Pictures of a catalogue, read from their places in tars.

    Parameters
    ----------
    files : list of Path
        The tars.
    item, tar, offset, length : integer arrays (N,), a picture's item and place
    crc32 : uint32 array (N,) of the pictures' checksums, or None where they are not known
    of : integer array (N,), the item that a further picture is of, -1 for an item's first; None where all are such
    """

    def __init__(
        self,
        files: list[Path],
        *,
        item: np.ndarray,
        tar: np.ndarray,
        offset: np.ndarray,
        length: np.ndarray,
        crc32: np.ndarray | None = None,
        of: np.ndarray | None = None,
    ) -> None:
        self.files = files
        self.tar, self.offset, self.length, self.crc32 = tar, offset, length, crc32
        self.row = np.full(int(item.max(initial=-1)) + 1, -1, np.int32)  # of each item
        self.row[item] = np.arange(len(item), dtype=np.int32)
        further = np.flatnonzero(of >= 0) if of is not None else np.empty(0, np.int64)
        further = further[np.argsort(of[further], kind="stable")] if of is not None else further
        self._further = item[further]
        self._owner = of[further] if of is not None else further
        self._read = PlaceReader()

    def of_item(self, item: int) -> list[int]:
        """The numbers of an item's pictures, its own first."""
        if not len(self._owner):
            return [item]
        first, last = np.searchsorted(self._owner, [item, item + 1])
        return [item, *self._further[first:last].tolist()]

    def __len__(self) -> int:
        return len(self.tar)

    def __getitem__(self, item: int) -> bytes:
        """The bytes of an item's picture; see :class:`PlaceReader`."""
        return self._read(self.place(item))

    def place(self, item: int) -> Place:
        """Where the picture of an item is.

        Raises
        ------
        UserError
            If there is none.
        """
        row = self.row[item] if 0 <= item < len(self.row) else -1
        if row < 0:
            raise UserError(f"item {item} has no picture in {self.files[0].parent}; {COPY_AGAIN}")
        if not self.length[row]:
            raise UserError(
                f"{self.files[0].parent} was written with data_tools.shards --pictures none: train on vectors "
                "(pretrain.train --encoder.family table), "
                "or write shards with pictures"
            )
        crc32 = None if self.crc32 is None else int(self.crc32[row])
        return Place(item, self.files[self.tar[row]], int(self.offset[row]), int(self.length[row]), crc32)


# Pictures' bytes by item: those of one shard, or of the whole catalogue.
Pictures = Mapping[int, bytes] | PlacedPictures


class Shards(Protocol):
    """An open shard folder.

    Attributes
    ----------
    folder : Path
        Where it is.
    index : dict of str to any
        What ``index.json`` says.
    shared : bool
        Whether all groups have the same pictures, those of the catalogue.
    """

    folder: Path
    index: dict[str, Any]
    shared: bool

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """Groups of catalogue items (kind "items") or of a split's requests (its name), each with its number of
        ``items`` or ``requests`` and the ``category`` of all its requests, or None."""

    def records(self, kind: str, group: int) -> list[dict[str, Any]]:
        """A group's records, without pictures."""

    def read(self, kind: str, group: int) -> tuple[Pictures, list[dict[str, Any]]]:
        """A group's records, and pictures among which theirs are."""

    def pictures(self, kind: str, group: int | None = None) -> PlacedPictures:
        """Pictures by place among which those of a group, or of all groups of its kind, are.

        Those of all groups are read at random: of a URL, they have to fit into the cache together.
        """


class StreamingShards:
    """Tars that bring their own pictures."""

    shared = False

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder, self.index = folder, index
        self._checked: set[str] = set()

    def listed(self, kind: str) -> list[dict[str, Any]]:
        return self.index["items"] if kind == "items" else self.index["requests"][kind]

    def records(self, kind: str, group: int) -> list[dict[str, Any]]:
        shard = self.listed(kind)[group]
        with held(self.folder / shard["file"]) as file:
            return self._counted(read_shard(file, pictures=False), shard)[1]

    def read(self, kind: str, group: int) -> tuple[dict[int, bytes], list[dict[str, Any]]]:
        shard = self.listed(kind)[group]
        with self._checked_file(shard) as file:
            images, records = self._counted(read_shard(file), shard)
        self._check_images(len(images), shard)
        return images, records

    def pictures(self, kind: str, group: int | None = None) -> PlacedPictures:
        shards = self.listed(kind) if group is None else [self.listed(kind)[group]]
        if group is None:
            _check_room(self.folder, shards, "score fewer requests, or write smaller shards")
        found = []
        for number, shard in enumerate(shards):
            with self._checked_file(shard) as file:
                places = np.array(list(picture_places(file)), np.int64).reshape(-1, 3)
            self._check_images(len(places), shard)
            found.append(np.column_stack([places, np.full(len(places), number)]))
        item, offset, length, tar = np.concatenate([np.empty((0, 4), np.int64), *found]).T
        files = [self.folder / shard["file"] for shard in shards]
        return PlacedPictures(files, item=item, tar=tar.astype(np.int32), offset=offset, length=length.astype(np.int32))

    def _check_images(self, found: int, shard: dict[str, Any]) -> None:
        if found != (promised := shard.get("images", shard.get("items"))):
            raise UserError(
                f"{self.folder / shard['file']} holds {found} pictures, the index promises {promised}; {COPY_AGAIN}"
            )

    @contextmanager
    def _checked_file(self, shard: dict[str, Any]) -> Iterator[Path]:
        """The file of a shard on this machine, whose digest each process compares once."""
        with held(self.folder / shard["file"]) as path:
            if shard["file"] not in self._checked:
                check_shard(path, shard["digest"])
                self._checked.add(shard["file"])
            yield path

    def _counted(self, read: tuple[dict[int, bytes], list[dict[str, Any]]], shard: dict[str, Any]) -> Any:
        promised = shard.get("requests", shard.get("items"))
        if len(read[1]) != promised:
            raise UserError(
                f"{self.folder / shard['file']} holds {len(read[1])} records, the index promises {promised}; "
                f"{COPY_AGAIN}"
            )
        return read


class CatalogueShards:
    """Each picture once, and tables of requests that refer to them."""

    shared = True

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder, self.index = folder, index
        self._groups = {
            split: [
                {"file": number, "row_group": row_group, **group}
                for number, file in enumerate(files)
                for row_group, group in enumerate(file["groups"])
            ]
            for split, files in index["requests"].items()
        }
        self._tables = {
            split: [GroupedTable(folder, file) for file in files] for split, files in index["requests"].items()
        }
        self._items = GroupedTable(folder, index["table"])

    def listed(self, kind: str) -> list[dict[str, Any]]:
        return self.index["items"] if kind == "items" else self._groups[kind]

    def records(self, kind: str, group: int) -> list[dict[str, Any]]:
        listed = self.listed(kind)[group]
        if kind == "items":
            rows = self._items.read(group, listed["items"]).drop_columns(list(PLACE))
            if "of" in rows.column_names:
                rows = rows.filter(rows["of"].is_null()).drop_columns("of")
            return rows.to_pylist()
        table = self._tables[kind][listed["file"]]
        return table.read(listed["row_group"], listed["requests"]).to_pylist()

    def read(self, kind: str, group: int) -> tuple[PlacedPictures, list[dict[str, Any]]]:
        return self._pictures, self.records(kind, group)

    def pictures(self, kind: str, group: int | None = None) -> PlacedPictures:
        if group is None:
            _check_room(self.folder, files_of(self.index), "write the shards with data_tools.shards --layout streaming")
        return self._pictures

    @cached_property
    def _pictures(self) -> PlacedPictures:
        names = ("item", "tar", "offset", "length", "crc32", *(("of",) if self._items.has("of") else ()))
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for group in range(len(self.index["items"])):
            table = self._items.read(group, self.index["items"][group]["items"], list(parts))
            frame = pl.from_arrow(table)  # arrow's own way to numpy imports pandas, which takes a second
            for name, values in parts.items():
                values.append((frame[name].fill_null(-1) if name == "of" else frame[name]).to_numpy())
        files = [self.folder / shard["file"] for shard in self.index["items"]]
        return PlacedPictures(files, **{name: np.concatenate(values) for name, values in parts.items()})


def _check_room(folder: Path, files: list[dict[str, Any]], instead: str) -> None:
    if is_url(folder):
        check_room(sum(file["bytes"] for file in files), f"what is read at random of {url_of(folder)}", instead)


def open_shards(folder: str | Path, digests: bool = False) -> Shards:
    """Open a shard folder; see :func:`data_tools.sharding.files.read_index` for what is checked and raised."""
    index = read_index(folder, digests)
    kinds = {"streaming": StreamingShards, "catalogue": CatalogueShards}
    return kinds[index.get("layout", "streaming")](Path(folder), index)


def near_duplicates(shards: Shards) -> dict[int, int]:
    """Of each item that shares nearly its picture with others the first of them; empty where none are known."""
    if not (described := shards.index.get("near_duplicates")):
        return {}
    table = GroupedTable(shards.folder, described).read(0, described["items"])
    return dict(zip(table["item"].to_pylist(), table["first"].to_pylist(), strict=True))


def all_records(shards: Shards, kind: str) -> Iterator[dict[str, Any]]:
    """All records of the catalogue ("items") or of a split, group after group."""
    for group in range(len(shards.listed(kind))):
        yield from shards.records(kind, group)
