"""The cosine of the shown item with each clicked one, which several forms are made of."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from downstream.images import Features
from downstream.layers import gather


def history_cosines(features: Features, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines (B, H), 0 where there is none, and whether there is one (B, H).

    There is one where the slot holds a click and both items have a vector.
    """
    unit, found = F.normalize(features(batch["row"]), dim=-1), features.found[batch["row"]]
    target, history = batch["target"], batch["history"]
    known = batch["mask"] & found[history] & found[target, None]
    row, slot = known.nonzero(as_tuple=True)
    cosines = (gather(unit, target[row]) * gather(unit, history[row, slot])).sum(dim=-1)
    return unit.new_zeros(known.shape).index_put((row, slot), cosines), known
