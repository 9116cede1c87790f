"""Many pictures to squares of one size at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torchvision.transforms import v2


def resized(pictures: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Squares of ``size`` pixels of pictures of any sizes, to the bit what torchvision makes of each alone.

    A call takes several times as long as resizing a small picture. The filter goes along rows and then along columns,
    so that all rows of one width can be resized in one call, whatever picture they are of, and then all columns of one
    height. Pictures of one size are resized in one call.

    Parameters
    ----------
    pictures : uint8 arrays (height, width, 3)

    Returns
    -------
    uint8 array (n, size, size, 3)
    """
    if len({picture.shape for picture in pictures}) == 1:
        return _resize(np.stack(pictures), size, size)
    narrow = list(pictures)
    for places in _alike(picture.shape[1] for picture in pictures):
        rows = np.concatenate([pictures[place] for place in places])
        rows = _resize(rows[None], len(rows), size)[0]
        end = 0
        for place in places:
            start, end = end, end + len(pictures[place])
            narrow[place] = rows[start:end]
    squares = np.empty((len(pictures), size, size, 3), np.uint8)
    for places in _alike(map(len, pictures)):
        squares[places] = _resize(np.stack([narrow[place] for place in places]), size, size)
    return squares


def _alike(lengths: Iterable[int]) -> Iterable[list[int]]:
    """Places of each length."""
    places = defaultdict(list)
    for place, length in enumerate(lengths):
        places[length].append(place)
    return places.values()


def _resize(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures (n, h, w, 3) of one size as (n, height, width, 3)."""
    found = v2.functional.resize_image(as_tensor(pictures), [height, width], antialias=True)
    return found.permute(0, 2, 3, 1).numpy()


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (n, h, w, 3) as (n, 3, h, w) without a copy: channels come last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
