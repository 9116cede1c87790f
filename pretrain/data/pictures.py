"""Pictures in order, decoded while others are encoded: for validation and export.

What is held is a few chunks of pictures, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_tools.common.ahead import mapped_ahead
from data_tools.common.cli import UserError
from data_tools.reading.images import BadImage
from data_tools.sharding.read import Place, PlacedPictures, PlaceReader
from pretrain.data.transforms import plain_transform
from pretrain.data.workers import Loader, loader_processes, prefetched
from pretrain.runtime.cpu import one_core_a_thread

# Bytes of decoded pictures that are kept for the next time: small sets are decoded once.
KEPT = 256e6
BLACK = np.zeros((1, 1, 3), np.uint8)


class _Chunks(Dataset):
    """See :func:`decoded`."""

    def __init__(self, image_size: int) -> None:
        self.transform, self.read = plain_transform(image_size), PlaceReader()

    def __getitem__(self, chunk: Sequence[Place]) -> tuple[Tensor, Tensor] | UserError:
        try:
            return self.decoded(chunk)
        except UserError as error:
            return error

    def decoded(self, chunk: Sequence[Place]) -> tuple[Tensor, Tensor]:
        readable = torch.ones(len(chunk), dtype=torch.bool)
        images = self.transform(self._pictures(chunk, readable))
        return images, readable

    def _pictures(self, chunk: Sequence[Place], readable: Tensor) -> Iterator[np.ndarray]:
        for row, place in enumerate(chunk):
            try:
                yield self.transform.decode(self.read(place))
            except BadImage:
                readable[row] = False
                yield BLACK


def decoded(
    chunks: Iterable[Sequence[Place]], image_size: int, most: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of pictures as the encoder takes them, in order, made ahead in loader processes.

    Parameters
    ----------
    chunks : iterable of sequence of Place
        Places of each chunk's pictures; taken a few ahead of what has been given back.
    image_size : int
        Side S of the square pictures.
    most : int or None
        Chunks there are, where it is known: a single one needs no extra process.

    Yields
    ------
    images : uint8 tensor (n, 3, S, S), zeros where one cannot be decoded
    readable : bool tensor (n,), false there
    """
    workers = 0 if most is not None and most < 2 else loader_processes(None, most)
    yield from Loader(
        _Chunks(image_size),
        sampler=chunks,
        num_workers=workers,
        prefetch_factor=prefetched(workers),
        pin_memory=torch.cuda.is_available(),
    )


def encoded_in_threads(
    chunks: Iterable[Sequence[Place]], image_size: int, encode: Callable[[Tensor], Tensor], threads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of pictures as vectors, in order, each chunk decoded and encoded by one of some threads.

    On a CPU, several threads with a chunk each make more of the cores than all cores together on one chunk after the
    other: a small encoder's operations are too short to be shared out, and no core waits for pictures.

    Parameters
    ----------
    chunks, image_size
        See :func:`decoded`.
    encode : pictures, uint8 (n, 3, S, S) -> vectors (n, D)
        Called by several threads at once.
    threads : int

    Yields
    ------
    vectors : tensor (n, D), some vector where a picture cannot be decoded
    readable : bool tensor (n,), false there
    """
    readers: SimpleQueue[_Chunks] = SimpleQueue()
    for _ in range(threads):
        readers.put(_Chunks(image_size))

    def encoded(chunk: Sequence[Place]) -> tuple[Tensor, Tensor]:
        reader = readers.get()
        try:
            images, readable = reader.decoded(chunk)
        finally:
            readers.put(reader)
        return encode(images), readable

    with one_core_a_thread():
        yield from mapped_ahead(encoded, chunks, threads)


class PictureSet:
    """Pictures of some items at an encoder's size, decoded when they are asked for; a small set is then kept.

    Parameters
    ----------
    pictures : PlacedPictures
        Where the pictures are.
    items : sequence of int
        One an element.
    image_size : int
        Side S of the square pictures.

    Attributes
    ----------
    broken : set of int
        Elements that could not be decoded, known once they have been asked for.
    """

    def __init__(self, pictures: PlacedPictures, items: Sequence[int], image_size: int) -> None:
        self.pictures, self.items, self.image_size = pictures, items, image_size
        self.broken: set[int] = set()
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, element: int | slice) -> Tensor | PictureSet:
        """An element, uint8 (3, S, S), or a set of some of them."""
        if isinstance(element, slice):
            return PictureSet(self.pictures, self.items[element], self.image_size)
        return next(iter(PictureSet(self.pictures, [self.items[element]], self.image_size).split(1)))[0]

    def split(self, size: int) -> Iterator[Tensor]:
        """All elements in order, uint8 (at most ``size``, 3, S, S) at a time, zeros for broken ones."""
        if self._kept is not None:
            yield from self._kept.split(size)
            return
        keeps = len(self) * 3 * self.image_size**2 <= KEPT
        firsts = range(0, len(self), size)
        chunks = ([self.pictures.place(item) for item in self.items[first : first + size]] for first in firsts)
        parts = []
        for first, (images, readable) in zip(firsts, decoded(chunks, self.image_size, len(firsts)), strict=True):
            self.broken |= {first + int(row) for row in (~readable).nonzero()}
            parts += [images] if keeps else []
            yield images
        self._kept = torch.cat(parts) if keeps and parts else None
