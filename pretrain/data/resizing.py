"""Many pictures to squares of one size at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

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
    narrow, squares = list(pictures), np.empty((len(pictures), size, size, 3), np.uint8)

    def along_rows(places: list[int]) -> None:
        rows = np.concatenate([pictures[place] for place in places])
        rows = _resize(rows[None], len(rows), size)[0]
        end = 0
        for place in places:
            start, end = end, end + len(pictures[place])
            narrow[place] = rows[start:end]

    def along_columns(places: list[int]) -> None:
        squares[places] = _resize(np.stack([narrow[place] for place in places]), size, size)

    _on_each_core(along_rows, _alike(picture.shape[1] for picture in pictures))
    _on_each_core(along_columns, _alike(map(len, pictures)))
    return squares


def _on_each_core(work: Callable[[list[int]], None], groups: Iterable[list[int]]) -> None:
    """Work on groups of pictures, a share of them on each of this thread's cores: torch resizes on one."""
    groups, cores = list(groups), torch.get_num_threads()

    def work_on_share(core: int) -> None:
        for places in groups[core::cores]:
            work(places)

    if cores == 1:
        work_on_share(0)
        return
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work_on_share, range(cores)))


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
