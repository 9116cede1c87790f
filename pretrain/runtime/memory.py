"""How many pictures are encoded at once, so that they fill a CPU and no more of its memory."""

from __future__ import annotations

import torch
from torch import Tensor

ENCODED_AT_ONCE = 256 * 96**2  # pixels of pictures
ENCODED_BY_A_THREAD = 16 * 224**2  # the same of each thread on a core of its own


def pieces(images: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Pictures in pieces that are encoded one after the other without a gradient.

    On a CPU, so many at once that they fill it: more take more memory and no less time. On other devices, and of items
    in place of pictures, all.

    Parameters
    ----------
    images : Tensor
        Pictures (N, 3, S, S), or items (N,).
    device : torch.device
        Where they are encoded.
    """
    if device.type != "cpu" or images.dim() < 4:
        return (images,)
    return images.split(max(1, ENCODED_AT_ONCE // images.shape[-1] ** 2))


def encoded_by_a_thread(image_size: int, most: int) -> int:
    """Pictures, at most so many, that each thread on a core of its own encodes at once: a power of two."""
    found = min(most, max(1, ENCODED_BY_A_THREAD // image_size**2))
    return 1 << (found.bit_length() - 1)
