"""Stored pictures to inputs: decoded, cropped, resized and mirrored."""

from __future__ import annotations

import io
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_tools.reading.images import BadImage, read_image
from data_tools.sharding.read import Pictures, PlacedPictures
from pretrain.data.jpegs import decode_plain
from pretrain.data.resizing import as_tensor, resized
from pretrain.settings import Batch

NUMPY = b"\x93NUMPY"  # how a picture that is stored decoded begins
TOGETHER = 8 << 20  # bytes of decoded pictures that are resized at once
# torchvision's: of a crop's width to its height or the other way round, and of how often one is drawn that may not fit.
WIDEST, TRIES = 4 / 3, 10


@dataclass(frozen=True)
class Transform:
    """How pictures become inputs: ``transform([transform.decode(data), ...])``.

    Attributes
    ----------
    steps : uint8 arrays (height, width, 3) -> uint8 tensor (n, 3, S, S), channels last in memory
    at_least : int
        Pixels of each side worth decoding; only JPEGs of twice that are decoded smaller than they are.
    """

    steps: Callable[[list[np.ndarray]], Tensor]
    at_least: int

    def decode(self, data: bytes) -> np.ndarray:
        """Decode a picture's bytes to uint8 (height, width, 3).

        Raises
        ------
        BadImage
            If they are no picture.
        """
        if data.startswith(NUMPY):
            start = 10 + int.from_bytes(data[8:10], "little")
            return np.frombuffer(data, np.uint8, offset=start).reshape(_shape(data[:start]))
        picture = decode_plain(data, self.at_least)
        return np.asarray(read_image(data, self.at_least)) if picture is None else picture

    def __call__(self, pictures: Iterable[np.ndarray]) -> Tensor:
        """Inputs, uint8 (n, 3, S, S); no more pictures are held at once than are resized together."""
        return torch.cat([self.steps(some) for some in _parts(pictures)])


def _parts(pictures: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    part: list[np.ndarray] = []
    left = TOGETHER
    for picture in pictures:
        part.append(picture)
        left -= picture.nbytes
        if left <= 0:
            yield part
            part, left = [], TOGETHER
    if part:
        yield part


@lru_cache
def _shape(head: bytes) -> tuple[int, ...]:
    """(height, width, 3) of a picture that is stored decoded; most are of one shape, and numpy takes its time."""
    stream = io.BytesIO(head[8:])
    return np.lib.format.read_array_header_1_0(stream)[0]


def plain_transform(image_size: int) -> Transform:
    """The whole picture, squeezed into a square: for evaluation and export, where nothing is cut off."""
    return Transform(PlainView(image_size), 2 * image_size)


@dataclass(frozen=True)
class PlainView:
    """The whole of each picture, as a square of ``image_size`` pixels."""

    image_size: int

    def __call__(self, pictures: list[np.ndarray]) -> Tensor:
        return as_tensor(resized(pictures, self.image_size))


@dataclass(frozen=True)
class RandomView:
    """A random crop and mirror of each picture, as torchvision's RandomResizedCrop and RandomHorizontalFlip make them.

    Those take one picture at a time, and longer to draw for it than a small one takes itself: here the numbers of many
    pictures are drawn at once.

    Attributes
    ----------
    image_size : int
        Side of the view.
    crop_scale : float
        Smallest share of the picture that a crop keeps; 1 takes the whole picture.
    flip : bool
        Mirror half of the pictures.
    """

    image_size: int
    crop_scale: float
    flip: bool

    def __call__(self, pictures: list[np.ndarray]) -> Tensor:
        numbers = torch.rand(len(pictures), 2 * TRIES + 3, dtype=torch.float64).tolist()
        if self.crop_scale < 1:
            crops = (self.crop(*picture.shape[:2], own) for picture, own in zip(pictures, numbers, strict=True))
            pictures = [picture[crop] for picture, crop in zip(pictures, crops, strict=True)]
        views = resized(pictures, self.image_size)
        if self.flip:
            mirrored = [place for place, own in enumerate(numbers) if own[-1] < 0.5]
            views[mirrored] = as_tensor(views[mirrored]).flip(-1).permute(0, 2, 3, 1).numpy()
        return as_tensor(views)

    def crop(self, height: int, width: int, numbers: list[float]) -> tuple[slice, slice]:
        """A crop of a picture, from numbers in [0, 1): two for each try, two for its place.

        Its share of the picture, and the logarithm of its aspect, are uniform. If no try fits into the picture, it is
        the largest one in the middle whose aspect is allowed.
        """
        for number in range(0, 2 * TRIES, 2):
            share, aspect = numbers[number : number + 2]
            area = height * width * (self.crop_scale + (1 - self.crop_scale) * share)
            ratio = WIDEST ** (2 * aspect - 1)
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top, left = numbers[2 * TRIES : 2 * TRIES + 2]
                top, left = int(top * (height - rows + 1)), int(left * (width - columns + 1))
                break
        else:
            rows, columns = min(height, round(width * WIDEST)), min(width, round(height * WIDEST))
            top, left = (height - rows) // 2, (width - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)


@dataclass(frozen=True)
class Jittered:
    """Views whose colours torchvision changes, of each on its own."""

    view: RandomView
    jitter: v2.ColorJitter

    def __call__(self, pictures: list[np.ndarray]) -> Tensor:
        return torch.stack([self.jitter(view) for view in self.view(pictures)])


def training_transform(settings: Batch, image_size: int) -> Transform:
    """Random crop, mirror and colour jitter of each picture, as the settings say."""
    # The smallest crop, of a square picture and the widest aspect, still has a view's pixels.
    at_least = math.ceil(image_size * max(2, (settings.crop_scale / WIDEST) ** -0.5))
    view = RandomView(image_size, settings.crop_scale, settings.flip)
    if not (strength := settings.colour_jitter):
        return Transform(view, at_least)
    return Transform(Jittered(view, v2.ColorJitter(strength, strength, strength, strength / 4)), at_least)


def drawn(pictures: Pictures, item: int) -> int:
    """The number of one of an item's pictures, drawn with equal chances; where it has one, nothing is drawn."""
    if not isinstance(pictures, PlacedPictures):
        return item
    of_item = pictures.of_item(item)
    return of_item[int(torch.randint(len(of_item), ()))] if len(of_item) > 1 else item


class Decoder:
    """Decodes items' pictures for one transform, and keeps the most recently used: popular ones are decoded once.

    In training, a picture that cannot be decoded is grey, and a warning says so once: one broken picture ends no run.

    Parameters
    ----------
    cache_bytes : int
        Most bytes of decoded pictures that are kept.
    """

    def __init__(self, transform: Transform, cache_bytes: int = 0) -> None:
        self.transform, self.cache_bytes = transform, cache_bytes
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._size = 0

    def __call__(self, pictures: Pictures, item: int) -> np.ndarray:
        """Decoded picture, uint8 (height, width, 3); of an item with several, one that torch's generator draws."""
        item = drawn(pictures, item)
        if item in self._kept:
            self._kept.move_to_end(item)
            return self._kept[item]
        try:
            picture = self.transform.decode(pictures[item])
        except BadImage as bad:
            warnings.warn(f"the picture of item {item} cannot be decoded ({bad}): replaced by grey", stacklevel=2)
            picture = np.full((self.transform.at_least, self.transform.at_least, 3), 128, np.uint8)
        self._keep(item, picture)
        return picture

    def views(self, pictures: Pictures, items: list[int], count: int = 1) -> Tensor:
        """Views of items' pictures, uint8 (count n, 3, S, S): one of each of the n items, then the next of each."""
        decoded: Iterable[np.ndarray] = (self(pictures, item) for item in items)
        if count > 1:
            decoded = list(decoded) * count
        return self.transform(decoded)

    def _keep(self, item: int, picture: np.ndarray) -> None:
        if picture.nbytes > self.cache_bytes:
            return
        self._kept[item] = picture
        self._size += picture.nbytes
        while self._size > self.cache_bytes:
            self._size -= self._kept.popitem(last=False)[1].nbytes


class ItemNumbers:
    """Stands where a :class:`Decoder` does for encoders that take items: nothing is read or decoded."""

    def views(self, pictures: Pictures, items: list[int], count: int = 1) -> Tensor:
        """The items' numbers, long (count n,)."""
        return torch.tensor(items * count)
