"""Shards -> batches, each distinct picture of a batch decoded once.

A batch of requests is a dict:

================  ==================  =============================================================================
``images``        uint8 (N, 3, S, S)  the batch's distinct pictures, augmented
``image_item``    long (N,)           their items
``history``       long (B, H)         indices into images, oldest click first, right-aligned, -1 for padding
``fresh``         long (B,)           how many of its last clicks no earlier request of the user has
``page``          long (B, P)         indices into images of the page view's slots, left-aligned, -1 for padding
``click``         float (B, P)        1 clicked, 0 not (and padding)
================  ==================  =============================================================================

A batch of catalogue pictures holds ``images`` (v n, ...) and ``image_item`` (v n,): first views of n, then second
views, and so on; and what the objective's ``annotate`` says of the n.

Streams are endless and a function of (seed, process, lane, batch number) alone, so that a run resumes at batch k
exactly: batches before it are read past without decoding. A lane is a share of a process's shards, by default one a
loader process; with a number of lanes of its own, batches are the same whatever the number of loader processes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms import v2

from data_tools.common.cli import UserError
from data_tools.reading.images import read_image
from data_tools.sharding.files import read_index, read_shard
from pretrain.settings import Batch

# What a batch says of its catalogue records besides: tensors (n, ...) by name.
Annotate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]
# An encoded batch: pictures' bytes by item, and the requests that mention them.
Encoded = tuple[dict[int, bytes], list[dict[str, Any]]]


@dataclass(frozen=True)
class Transform:
    """How a picture becomes an input: ``transform(transform.decode(data))``.

    Attributes
    ----------
    steps : uint8 tensor (3, height, width) -> uint8 tensor (3, S, S)
    at_least : pixels of each side worth decoding; only JPEGs of twice that are decoded smaller than they are
    """

    steps: Callable[[Tensor], Tensor]
    at_least: int

    def decode(self, data: bytes) -> Tensor:
        """Decode a picture's bytes to uint8 (3, height, width)."""
        return v2.functional.pil_to_tensor(read_image(data, self.at_least))

    def __call__(self, picture: Tensor) -> Tensor:
        return self.steps(picture)


def plain_transform(image_size: int) -> Transform:
    """The whole picture, squeezed into a square: for evaluation and export, so that nothing is cut off."""
    return Transform(v2.Resize((image_size, image_size), antialias=True), 2 * image_size)


def training_transform(settings: Batch, image_size: int) -> Transform:
    """Random crop, mirror and colour jitter of one picture, as the settings say."""
    crop = v2.RandomResizedCrop(image_size, scale=(settings.crop_scale, 1.0), antialias=True)
    # The smallest crop, of a square picture and an aspect of 3:4, still has a view's pixels.
    at_least = ceil(image_size * max(2, (settings.crop_scale * min(crop.ratio)) ** -0.5))
    steps: list[Any] = [crop]
    if settings.crop_scale == 1:
        steps = [plain_transform(image_size).steps]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip())
    if settings.colour_jitter:
        strength = settings.colour_jitter
        steps.append(v2.ColorJitter(strength, strength, strength, strength / 4))
    return Transform(v2.Compose(steps), at_least)


def places(items: list[int], index: dict[int, int]) -> list[int]:
    """Places of items among the distinct ones, which ``index`` (item -> place) gathers in order of appearance."""
    return [index.setdefault(item, len(index)) for item in items]


def request_batch(encoded: Encoded, transform: Transform, history: int, slots: int) -> dict[str, Tensor]:
    """Decode and lay out a batch of requests (see the top of this file for keys and shapes)."""
    images, requests = encoded
    index: dict[int, int] = {}
    shape = len(requests)
    batch = {
        "history": torch.full((shape, history), -1),
        "fresh": torch.tensor([min(request["fresh"], history) for request in requests]),
        "page": torch.full((shape, slots), -1),
        "click": torch.zeros(shape, slots),
    }
    for row, request in enumerate(requests):
        clicked, shown = places(request["history"][-history:], index), places(request["page"][:slots], index)
        batch["history"][row, history - len(clicked) :] = torch.tensor(clicked, dtype=torch.long)
        batch["page"][row, : len(shown)] = torch.tensor(shown)
        batch["click"][row, : len(shown)] = torch.tensor(request["click"][:slots], dtype=torch.float32)
    batch["images"] = torch.stack([transform(transform.decode(images[item])) for item in index])
    batch["image_item"] = torch.tensor(list(index))
    return batch


def item_batch(
    encoded: Encoded, transform: Transform, views: int = 2, annotate: Annotate | None = None
) -> dict[str, Tensor]:
    """Views of each catalogue picture, decoded once, and what is to be said of it."""
    images, records = encoded
    items = [record["item"] for record in records]
    decoded = [transform.decode(images[item]) for item in items]
    return {
        "images": torch.stack([transform(picture) for picture in decoded * views]),
        "image_item": torch.tensor(items * views),
        **(annotate(records) if annotate else {}),
    }


def mixed_seed(*parts: int) -> int:
    """One seed for torch from several numbers, such as (seed, process, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class BatchStream(IterableDataset):
    """Endless batches of one process.

    Parameters
    ----------
    shards : folder of the shards
    listed : what the index says of each
    rows : requests or pictures a batch
    collate : encoded batch -> dict of tensors
    seed, process, processes : what the stream is a function of
    start : batches of this process that were already trained on
    parts : shards, of as many categories where there are so many, that each batch takes equal parts from
    lanes : shares of a process's shards, read in turn; 0 for one a worker
    """

    def __init__(
        self,
        shards: str | Path,
        listed: list[dict[str, Any]],
        rows: int,
        collate: Callable[[Encoded], dict[str, Tensor]],
        seed: int,
        process: int,
        processes: int,
        start: int = 0,
        parts: int = 1,
        lanes: int = 0,
    ) -> None:
        self.files = [Path(shards) / shard["file"] for shard in listed]
        self.categories = [shard.get("category") for shard in listed]
        self.rows, self.collate = rows // parts, collate
        self.parts, self.lanes = parts, lanes
        self.seed, self.process, self.processes, self.start = seed, process, processes, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        lanes = self.lanes or workers
        streams: dict[int, Iterator[tuple[int, Encoded]]] = {}
        # The loader asks its n workers in turn, from worker 0 on: worker w gives batches start + w, start + w + n, ...
        # Batch b is of lane b modulo their number, whatever the start.
        for batch in itertools.count(self.start + number, workers):
            lane = batch % lanes
            if lane not in streams:
                streams[lane] = zip(itertools.count(lane, lanes), self._encoded(lane, lanes), strict=False)
            yield self._decode(next(encoded for place, encoded in streams[lane] if place == batch), batch)

    def _decode(self, encoded: Encoded, number: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, self.process, number))
            return self.collate(encoded)

    def _encoded(self, lane: int, lanes: int) -> Iterator[Encoded]:
        """Undecoded batches of one lane: its shards in random order, each epoch anew, batches of several mixed."""
        left: dict[str | None, Leftovers] = defaultdict(lambda: Leftovers(self.rows))
        if self.parts > 1:
            rng = np.random.default_rng([self.seed, self.process, lane])
            orders = itertools.chain.from_iterable(self._order(epoch, lane, lanes) for epoch in itertools.count())
            yield from _joined(
                ((self.categories[shard], self._cut(shard, rng, left)) for shard in orders), rng, self.parts
            )
        for epoch in itertools.count():
            rng = np.random.default_rng([self.seed, epoch, self.process, lane])
            yield from _mixed((self._cut(shard, rng, left) for shard in self._order(epoch, lane, lanes)), rng)

    def _order(self, epoch: int, lane: int, lanes: int) -> np.ndarray:
        """One lane's shards of an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.files))
        return order[self.process * lanes + lane :: self.processes * lanes]

    def _cut(self, shard: int, rng: np.random.Generator, left: dict[str | None, Leftovers]) -> list[Encoded]:
        images, records = read_shard(self.files[shard])
        rows = [records[row] for row in rng.permutation(len(records))]
        whole = len(rows) // self.rows * self.rows
        batches = [(images, rows[start : start + self.rows]) for start in range(0, whole, self.rows)]
        # Shards of one category that fill no batch fill one with others of theirs; the rests of larger ones mix.
        return batches + left[None if whole else self.categories[shard]].add(images, rows[whole:])


class Leftovers:
    """Rows that fill no batch of their own shard, gathered until they fill one together, so that none is lost."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.images: dict[int, bytes] = {}
        self.records: list[dict[str, Any]] = []

    def add(self, images: dict[int, bytes], records: list[dict[str, Any]]) -> list[Encoded]:
        """Take rows in and give back the batch that they complete, if they do."""
        self.records += records
        self.images |= {item: images[item] for record in records for item in items_of(record)}
        if len(self.records) < self.rows:
            return []
        batch = (self.images, self.records[: self.rows])
        self.records = self.records[self.rows :]
        self.images = {item: self.images[item] for record in self.records for item in items_of(record)}
        return [batch]


def items_of(record: dict[str, Any]) -> list[int]:
    """The items whose pictures a record of a shard mentions."""
    return [record["item"]] if "item" in record else record["history"] + record["page"]


def _mixed(shards: Iterator[list[Encoded]], rng: np.random.Generator, open_shards: int = 4) -> Iterator[Encoded]:
    """Batches of a few shards at a time in random order, so that neighbouring steps differ in category."""
    pool: list[list[Encoded]] = []
    for shard in shards:
        pool.append(shard)
        while len(pool) >= open_shards:
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
    shards: Iterator[tuple[str | None, list[Encoded]]], rng: np.random.Generator, parts: int
) -> Iterator[Encoded]:
    """Batches of one piece each from ``parts`` shards, of different categories as long as so many are open."""
    pool: list[tuple[str | None, list[Encoded]]] = []
    for category, pieces in shards:
        pool += [(category, pieces)] if pieces else []
        while len(pool) >= 4 * parts or len({category for category, _ in pool}) >= parts:
            order = [pool[place] for place in rng.permutation(len(pool))]
            first = dict(reversed(order))  # one shard of each category
            others = [shard for _, shard in order if not any(shard is one for one in first.values())]
            chosen = [*reversed(first.values()), *others][:parts]
            drawn = [shard.pop() for shard in chosen]
            pool = [(category, shard) for category, shard in pool if shard]
            images = {item: data[item] for data, rows in drawn for row in rows for item in items_of(row)}
            yield images, [row for _, rows in drawn for row in rows]


def loader(
    shards: str | Path,
    kind: str,
    settings: Batch,
    image_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    start: int = 0,
    views: int = 2,
    annotate: Annotate | None = None,
) -> DataLoader:
    """Endless training batches of one process.

    Parameters
    ----------
    shards : shard folder
    kind : "requests" or "items"
    settings : rows are those of all processes together
    image_size : side of the square pictures
    seed, process, processes, start : see :class:`BatchStream`
    views, annotate : see :func:`item_batch`

    Raises
    ------
    UserError
        If the rows do not divide over the processes and parts, or there are fewer shards than processes x workers.
    """
    index = read_index(shards)
    if settings.rows % (processes * settings.categories):
        parts = f" and {settings.categories} categories" if settings.categories > 1 else ""
        raise UserError(f"--batch.rows {settings.rows} cannot be spread evenly over {processes} processes{parts}")
    rows = settings.rows // processes
    listed = index["items"] if kind == "items" else index["requests"]["train"]
    workers = settings.shard_streams or max(settings.workers, 1)
    lanes = processes * workers
    if len(listed) < lanes:
        raise UserError(
            f"{shards} has {len(listed)} training shards; {processes} processes x {workers} workers (or lanes) need "
            f"at least {lanes}, since each reads shards of its own. Lower batch.workers or the number of processes, or "
            "write smaller shards (data_tools.shards --requests-per-shard, --items-per-shard, --shard-mb)"
        )
    transform = training_transform(settings, image_size)
    if kind == "items":
        collate = partial(item_batch, transform=transform, views=views, annotate=annotate)
    else:
        collate = partial(request_batch, transform=transform, history=settings.history, slots=settings.slots)
    spread = (settings.categories, settings.shard_streams)
    stream = BatchStream(shards, listed, rows, collate, seed, process, processes, start, *spread)
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
