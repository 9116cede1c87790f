"""Shards -> batches, each distinct picture of a batch decoded once.

A batch of requests is a dict:

================  ==================  =============================================================================
``images``        uint8 (N, 3, S, S)  the batch's distinct pictures, augmented
``image_item``    long (N,)           their items
``image_copy_of`` long (N,)           their items, but of near-duplicates the first; only where the shards know such
``history``       long (B, H)         indices into images, oldest click first, right-aligned, -1 for padding
``fresh``         long (B,)           how many of its last clicks no earlier request of the user has
``page``          long (B, P)         indices into images of the page view's slots, left-aligned, -1 for padding
``click``         float (B, P)        1 clicked, 0 not (and padding)
================  ==================  =============================================================================

A batch of catalogue pictures holds ``images`` (v n, ...) and ``image_item`` (v n,): first views of n, then second
views, and so on; and what the objective's ``annotate`` says of the n. A batch of both holds the pictures of requests,
then those of the catalogue, and ``catalogue``, long (): how many come before the latter.

Streams are endless and a function of (seed, process, shard stream, batch number) alone, so that a run resumes at batch
k exactly: batches before it are read past without decoding. A shard stream is a share of a process's groups of records;
their number is a setting, so that batches are the same whatever the number of loader processes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data_tools.common.cli import UserError
from data_tools.sharding.read import Pictures, PlacedPictures, Shards, near_duplicates, open_shards
from pretrain.data.collate import Annotate, Encoded, item_batch, items_of, request_batch
from pretrain.data.transforms import Decoder, ItemNumbers, training_transform
from pretrain.data.workers import Loader, loader_processes, prefetched
from pretrain.objectives.base import OF_PICTURES
from pretrain.settings import Batch


def mixed_seed(*parts: int) -> int:
    """One seed for torch from several numbers, such as (seed, process, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class BatchStream(IterableDataset):
    """Endless batches of one process.

    Parameters
    ----------
    shards : Shards
        Open shard folder.
    kind : str
        "items", or a split's name for its requests.
    rows : int
        Requests or pictures a batch.
    collate : encoded batch -> dict of tensors
    seed, process, processes : int
        What the stream is a function of.
    start : int
        Batches of this process that were already trained on.
    parts : int
        Groups, of as many categories where there are so many, that each batch takes equal parts from.
    streams : int
        Shares of a process's groups, read in turn.
    """

    def __init__(
        self,
        shards: Shards,
        kind: str,
        rows: int,
        collate: Callable[[Encoded], dict[str, Tensor]],
        *,
        seed: int,
        process: int,
        processes: int,
        start: int = 0,
        parts: int = 1,
        streams: int = 1,
    ) -> None:
        self.shards, self.kind = shards, kind
        if shards.shared:
            shards.pictures(kind)  # known before the loader processes are forked, which share it
        self.categories = [group.get("category") for group in shards.listed(kind)]
        self.rows, self.collate = rows // parts, collate
        self.parts, self.streams = parts, streams
        self.seed, self.process, self.processes, self.start = seed, process, processes, start

    def __iter__(self) -> Iterator[dict[str, Tensor] | UserError]:
        try:
            yield from self._batches()
        except UserError as error:
            yield error

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        streams: dict[int, Iterator[tuple[int, Encoded]]] = {}
        # The loader asks its n workers in turn, from worker 0 on: worker w gives batches start + w, start + w + n, ...
        # Batch b is of shard stream b modulo their number, whatever the start.
        for batch in itertools.count(self.start + number, workers):
            stream = batch % self.streams
            if stream not in streams:
                streams[stream] = zip(itertools.count(stream, self.streams), self._encoded(stream), strict=False)
            yield self._decode(next(encoded for place, encoded in streams[stream] if place == batch), batch)

    def _decode(self, encoded: Encoded, number: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, self.process, number))
            return self.collate(encoded)

    def _encoded(self, stream: int) -> Iterator[Encoded]:
        """Undecoded batches of one shard stream: its groups in random order, reshuffled each epoch, several mixed."""
        left: dict[str | None, Leftovers] = defaultdict(lambda: Leftovers(self.rows))
        if self.parts > 1:
            rng = np.random.default_rng([self.seed, self.process, stream])
            orders = itertools.chain.from_iterable(self._order(epoch, stream) for epoch in itertools.count())
            yield from _joined(
                ((self.categories[group], self._cut(group, rng, left)) for group in orders), rng, self.parts
            )
        for epoch in itertools.count():
            rng = np.random.default_rng([self.seed, epoch, self.process, stream])
            yield from _mixed((self._cut(group, rng, left) for group in self._order(epoch, stream)), rng)

    def _order(self, epoch: int, stream: int) -> np.ndarray:
        """One shard stream's groups of an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.categories))
        return order[self.process * self.streams + stream :: self.processes * self.streams]

    def _cut(self, group: int, rng: np.random.Generator, left: dict[str | None, Leftovers]) -> list[Encoded]:
        pictures, records = self.shards.read(self.kind, group)
        rows = [records[row] for row in rng.permutation(len(records))]
        whole = len(rows) // self.rows * self.rows
        batches = [(pictures, rows[start : start + self.rows]) for start in range(0, whole, self.rows)]
        # Groups of one category that fill no batch fill one with others of theirs; the rests of larger ones mix.
        return batches + left[None if whole else self.categories[group]].add(pictures, rows[whole:])


class Leftovers:
    """Rows left over from their own group's batches, gathered until they fill one: none is lost."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.pictures: Pictures = {}
        self.records: list[dict[str, Any]] = []

    def add(self, pictures: Pictures, records: list[dict[str, Any]]) -> list[Encoded]:
        """Take rows in and give back the batch that they complete, if they do."""
        self.pictures = pictures_of([(self.pictures, self.records), (pictures, records)])
        self.records += records
        if len(self.records) < self.rows:
            return []
        batch = (self.pictures, self.records[: self.rows])
        self.records = self.records[self.rows :]
        self.pictures = pictures_of([(self.pictures, self.records)])
        return [batch]


def pictures_of(parts: Iterable[Encoded]) -> Pictures:
    """The pictures that the records of several parts mention: each part's own, or the catalogue's, which all share."""
    found: dict[int, bytes] = {}
    for pictures, records in parts:
        if isinstance(pictures, PlacedPictures):
            return pictures
        found |= {item: pictures[item] for record in records for item in items_of(record)}
    return found


def _mixed(groups: Iterator[list[Encoded]], rng: np.random.Generator, open_groups: int = 4) -> Iterator[Encoded]:
    """Batches of a few groups at a time in random order, since neighbouring steps should differ in category."""
    pool: list[list[Encoded]] = []
    for group in groups:
        pool.append(group)
        while len(pool) >= open_groups:
            yield from _draw(pool, rng)
    while pool:
        yield from _draw(pool, rng)


def _draw(pool: list[list[Encoded]], rng: np.random.Generator) -> Iterator[Encoded]:
    chosen = int(rng.integers(len(pool)))
    if pool[chosen]:
        yield pool[chosen].pop()
    else:
        pool.pop(chosen)


def _joined(
    groups: Iterator[tuple[str | None, list[Encoded]]], rng: np.random.Generator, parts: int
) -> Iterator[Encoded]:
    """Batches of one piece each from ``parts`` groups, of different categories as long as so many are open."""
    pool: list[tuple[str | None, list[Encoded]]] = []
    for category, pieces in groups:
        pool += [(category, pieces)] if pieces else []
        while len(pool) >= 4 * parts or len({category for category, _ in pool}) >= parts:
            order = [pool[place] for place in rng.permutation(len(pool))]
            first = dict(reversed(order))  # one group of each category
            others = [group for _, group in order if not any(group is one for one in first.values())]
            chosen = [*reversed(first.values()), *others][:parts]
            drawn = [group.pop() for group in chosen]
            pool = [(category, group) for category, group in pool if group]
            yield pictures_of(drawn), [row for _, rows in drawn for row in rows]


class Both:
    """Endless batches of requests, each with one of catalogue pictures behind it.

    Attributes
    ----------
    num_workers : int
        Loader processes of the two.
    """

    def __init__(self, requests: Loader, catalogue: Loader) -> None:
        self.requests, self.catalogue = requests, catalogue
        self.num_workers = requests.num_workers + catalogue.num_workers

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for requested, items in zip(self.requests, self.catalogue, strict=True):
            first = {"catalogue": torch.tensor(len(requested["images"]))}
            pictures = {name: torch.cat([requested[name], items[name]]) for name in OF_PICTURES if name in items}
            yield requested | items | pictures | first


def stored_decoded(shards: Shards) -> bool:
    """Whether no picture has to be decoded: they are stored as numbers, or there are none."""
    return shards.index.get("settings", {}).get("pictures", "encoded") != "encoded"


def training_workers(shards: Shards, settings: Batch, image_size: int) -> int:
    """Loader processes of a training process; loading is light where pictures are decoded once at most."""
    size = 3 * training_transform(settings, image_size).at_least ** 2  # about that of a decoded picture, in bytes
    kept = shards.shared and sum(group["items"] for group in shards.listed("items")) * size <= settings.cache_mb * 1e6
    # A self-contained shard is read whole by each process that needs some of it: there, one process a shard stream.
    most = None if shards.shared else settings.shard_streams
    return loader_processes(settings.workers, most, light=kept or stored_decoded(shards))


def _check_divisible(shards: Shards, kind: str, settings: Batch, processes: int) -> None:
    """Raise a UserError where rows or groups of records do not suffice for all processes."""
    if settings.rows % (processes * settings.categories):
        parts = f" and {settings.categories} categories" if settings.categories > 1 else ""
        raise UserError(f"--batch.rows {settings.rows} cannot be spread evenly over {processes} processes{parts}")
    groups, streams = len(shards.listed(kind)), processes * settings.shard_streams
    if groups < streams:
        raise UserError(
            f"{shards.folder} has {groups} groups of training records; {processes} processes x "
            f"{settings.shard_streams} shard streams need at least {streams}, since each reads different groups. Lower "
            "--batch.shard_streams or the number of processes, or write smaller groups (data_tools.shards "
            "--requests-per-shard, --items-per-shard, --shard-mb)"
        )


def loader(
    folder: str | Path,
    kind: str,
    settings: Batch,
    image_size: int,
    seed: int,
    *,
    process: int = 0,
    processes: int = 1,
    start: int = 0,
    views: int = 2,
    annotate: Annotate | None = None,
    pictures: bool = True,
) -> Loader:
    """Endless training batches of one process.

    Parameters
    ----------
    folder : str or Path
        Shard folder.
    kind : "requests" or "items"
    settings : Batch
        Rows are those of all processes together.
    image_size : int
        Side of the square pictures.
    seed, process, processes, start : int
        See :class:`BatchStream`.
    views : int
    annotate : records -> dict of tensors, optional
        See :func:`pretrain.data.collate.item_batch`.
    pictures : bool
        Whether ``images`` holds pictures; otherwise the items' numbers, for encoders that take items.

    Raises
    ------
    UserError
        If the rows do not divide over the processes and parts, or there are too few groups for the shard streams.
    """
    shards, kind = open_shards(folder), "items" if kind == "items" else "train"
    _check_divisible(shards, kind, settings, processes)
    workers = training_workers(shards, settings, image_size)
    cache = int(settings.cache_mb * 1e6) // max(workers, 1)
    decoder = Decoder(training_transform(settings, image_size), cache) if pictures else ItemNumbers()
    copy_of = near_duplicates(shards)
    if kind == "items":
        collate = partial(item_batch, decoder=decoder, views=views, annotate=annotate, copy_of=copy_of)
    else:
        size = {"history": settings.history, "slots": settings.slots}
        collate = partial(request_batch, decoder=decoder, **size, copy_of=copy_of)
    stream = BatchStream(
        shards,
        kind,
        settings.rows // processes,
        collate,
        seed=seed,
        process=process,
        processes=processes,
        start=start,
        parts=settings.categories,
        streams=settings.shard_streams,
    )
    return Loader(
        stream,
        num_workers=workers,
        prefetch_factor=prefetched(workers),
        pin_memory=torch.cuda.is_available(),
    )
