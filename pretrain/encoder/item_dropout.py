"""Dropout whose masks belong to pictures: the same whatever process or micro-batch a picture is encoded in.

torch draws a mask for a whole tensor, so that splitting a batch changes every mask. Here a mask is a hash of the
picture's seed (which the trainer makes from seed, step, item and view), the layer and the element's place: ours.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (Steele et al. 2014): every bit of the result depends on every bit of x."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x = _folded(x, shift).mul_(_signed(factor))
    return _folded(x, 31)


def _folded(x: Tensor, shift: int) -> Tensor:
    """x ^ (x >> shift) with zeros shifted in, in one new tensor: masks of many pictures are large."""
    return (x >> shift).bitwise_and_(2 ** (64 - shift) - 1).bitwise_xor_(x)


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Numbers in [0, 1), float32 (n, count), that depend on the row's seed and the column alone.

    Parameters
    ----------
    seeds : long tensor (n,)
    """
    place = torch.arange(1, count + 1, device=seeds.device) * _signed(GOLDEN)
    return (mix(seeds[:, None] + place) >> 40).bitwise_and_(2**24 - 1).float().div_(2**24)


def picture_seeds(items: Tensor, views: int, *parts: int) -> Tensor:
    """One seed a picture, long (n,).

    Parameters
    ----------
    items : long tensor (n,)
        With several views, all first views come before all second ones.
    views : int
        How often each item is in the batch.
    *parts : int
        Further numbers that the seeds depend on, such as seed and step.
    """
    start = _signed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))
    view = torch.arange(len(items), device=items.device) // max(1, len(items) // views)
    return mix(mix(items * views + view) + start)


class ItemDropout(nn.Module):
    """Dropout, or stochastic depth, with masks of the picture's own.

    ``seeds`` is set by the encoder before each forward pass in training; without it masks are drawn from torch's
    generator. A layer may see several windows a picture, pictures in order.
    """

    def __init__(self, probability: float, layer: int, whole: bool) -> None:
        super().__init__()
        self.p, self.layer, self.whole = probability, layer, whole
        self.seeds: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        seeds = self.seeds
        if seeds is None:
            seeds = torch.randint(2**62, (len(x),), device=x.device)
        count = 1 if self.whole else x.numel() // len(seeds)
        kept = uniform(mix(seeds + self.layer), count) >= self.p
        if self.whole:
            kept = kept.repeat_interleave(len(x) // len(seeds), 0)
            return x * (kept.view(-1, *[1] * (x.ndim - 1)) / (1 - self.p)).to(x.dtype)
        return x * (kept.view(x.shape) / (1 - self.p)).to(x.dtype)


def replace_dropout(tower: nn.Module) -> list[ItemDropout]:
    """Replace every dropout and stochastic depth that does anything; attention's own becomes one too.

    Fused attention draws its masks inside a kernel: it is switched off where attention has dropout.
    """
    made: list[ItemDropout] = []
    for module in list(tower.modules()):
        for name, child in list(module.named_children()):
            probability = child.p if isinstance(child, nn.Dropout) else getattr(child, "drop_prob", 0.0) or 0.0
            if not isinstance(child, nn.Dropout | DropPath) or not probability:
                continue
            made.append(ItemDropout(probability, len(made), whole=isinstance(child, DropPath)))
            setattr(module, name, made[-1])
            if name == "attn_drop" and hasattr(module, "fused_attn"):
                module.fused_attn = False
    return made
