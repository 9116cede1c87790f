"""A stored picture to an input: decoded, cropped, resized and mirrored."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_tools.reading.images import BadImage, read_image
from data_tools.sharding.read import Pictures, PlacedPictures
from pretrain.settings import Batch

NUMPY = b"\x93NUMPY"  # how a picture that is stored decoded begins


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
        """Decode a picture's bytes to uint8 (3, height, width).

        Raises
        ------
        BadImage
            If they are no picture.
        """
        if data.startswith(NUMPY):
            start = 10 + int.from_bytes(data[8:10], "little")
            values = np.frombuffer(bytearray(data), np.uint8, offset=start)
            return torch.from_numpy(values.reshape(_shape(data[:start]))).permute(2, 0, 1)
        return v2.functional.pil_to_tensor(read_image(data, self.at_least))

    def __call__(self, picture: Tensor) -> Tensor:
        return self.steps(picture)


@lru_cache
def _shape(head: bytes) -> tuple[int, ...]:
    """(height, width, 3) of a picture that is stored decoded; most are of one shape, and numpy takes its time."""
    stream = io.BytesIO(head[8:])
    return np.lib.format.read_array_header_1_0(stream)[0]


def plain_transform(image_size: int) -> Transform:
    """The whole picture, squeezed into a square: for evaluation and export, so that nothing is cut off."""
    return Transform(v2.Resize((image_size, image_size), antialias=True), 2 * image_size)


@dataclass(frozen=True)
class RandomView:
    """torchvision's random crop and mirror of one picture, to the bit, with the same draws in the same order.

    torchvision's modules take any nest of inputs, and spend more time on finding the picture in it than on a small
    picture itself: here a view of 64 px takes three fifths of the time.

    Attributes
    ----------
    crop : what draws the crops; None takes the whole picture
    image_size : side of the view
    flip : mirror half of the pictures
    """

    crop: v2.RandomResizedCrop | None
    image_size: int
    flip: bool

    def __call__(self, picture: Tensor) -> Tensor:
        size = [self.image_size, self.image_size]
        if self.crop:
            drawn = self.crop.make_params([picture])
            view = v2.functional.resized_crop_image(picture, **drawn, size=size, antialias=True)
        else:
            view = v2.functional.resize_image(picture, size, antialias=True)
        return v2.functional.horizontal_flip_image(view) if self.flip and torch.rand(1) < 0.5 else view


def training_transform(settings: Batch, image_size: int) -> Transform:
    """Random crop, mirror and colour jitter of one picture, as the settings say."""
    crop = v2.RandomResizedCrop(image_size, scale=(settings.crop_scale, 1.0), antialias=True)
    # The smallest crop, of a square picture and an aspect of 3:4, still has a view's pixels.
    at_least = ceil(image_size * max(2, (settings.crop_scale * min(crop.ratio)) ** -0.5))
    view = RandomView(None if settings.crop_scale == 1 else crop, image_size, settings.flip)
    if not settings.colour_jitter:
        return Transform(view, at_least)
    strength = settings.colour_jitter
    jitter = v2.ColorJitter(strength, strength, strength, strength / 4)
    return Transform(v2.Compose([view, jitter]), at_least)


def drawn(pictures: Pictures, item: int) -> int:
    """The number of one of an item's pictures, drawn with equal chances; where it has one, nothing is drawn."""
    if not isinstance(pictures, PlacedPictures):
        return item
    of_item = pictures.of_item(item)
    return of_item[int(torch.randint(len(of_item), ()))] if len(of_item) > 1 else item


class Decoder:
    """Decodes items' pictures for one transform, and keeps those asked for last, so that popular ones are decoded once.

    In training, a picture that cannot be decoded is grey, and a warning says so once: one broken picture ends no run.

    Parameters
    ----------
    cache_bytes : most bytes of decoded pictures that are kept
    """

    def __init__(self, transform: Transform, cache_bytes: int = 0) -> None:
        self.transform, self.cache_bytes = transform, cache_bytes
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._size = 0

    def __call__(self, pictures: Pictures, item: int) -> Tensor:
        """Decoded picture, uint8 (3, height, width); of an item with several, one that torch's generator draws."""
        item = drawn(pictures, item)
        if item in self._kept:
            self._kept.move_to_end(item)
            return self._kept[item]
        try:
            picture = self.transform.decode(pictures[item])
        except BadImage as bad:
            warnings.warn(f"the picture of item {item} cannot be decoded ({bad}): grey in its place", stacklevel=2)
            picture = torch.full((3, self.transform.at_least, self.transform.at_least), 128, dtype=torch.uint8)
        self._keep(item, picture)
        return picture

    def views(self, pictures: Pictures, items: list[int], count: int = 1) -> Tensor:
        """Views of items' pictures, uint8 (count n, 3, S, S): one of each of the n items, then the next of each."""
        decoded: Iterable[Tensor] = (self(pictures, item) for item in items)
        if count > 1:
            decoded = list(decoded) * count
        return torch.stack([self.transform(picture) for picture in decoded])

    def _keep(self, item: int, picture: Tensor) -> None:
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
