"""Cosines of the shown item with the clicked ones, from which several forms are made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.images.features import Features
from downstream.layers.blocks import gather

PIECE = 1024


def history_cosines(features: Features, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines of the shown item with each clicked one.

    Returns
    -------
    cosines : Tensor
        (B, H), 0 where there is none.
    known : Tensor
        bool (B, H), whether there is one: the slot holds a click and both items have a vector.
    """
    unit, found = F.normalize(features(batch["row"]), dim=-1), features.found[batch["row"]]
    target, history = batch["target"], batch["history"]
    known = batch["mask"] & found[history] & found[target, None]
    row, slot = known.nonzero(as_tuple=True)
    # A cache-sized piece of the pairs at a time, but all at once where a gradient as large as ``unit`` comes of each.
    piece = max(len(row), 1) if unit.requires_grad else PIECE
    pairs = zip(target[row].split(piece), history[row, slot].split(piece), strict=True)
    cosines = torch.cat([(gather(unit, shown) * gather(unit, clicked)).sum(dim=-1) for shown, clicked in pairs])
    return unit.new_zeros(known.shape).index_put((row, slot), cosines), known
