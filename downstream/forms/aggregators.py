"""Pooling of a user's behaviours into one vector (DICM, arXiv 1711.06505, section on behaviour images).

Every aggregator is called as ``pool(behaviours, mask, ad, ad_ids)`` with

- behaviours (B, H, d), mask (B, H) true where a slot holds a behaviour,
- ad (B, d), the vector of the shown item in the same space, and ad_ids (B, q), its ID embeddings,

and returns (B, ``width``). Padded slots never count; a row without behaviours gives zeros. Where ``of_history_alone``,
the shown item does not matter, and rows of one user and history are pooled once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from downstream.layers.attention import ActivationUnit


class Sum(nn.Module):
    """Sum over the behaviours."""

    of_history_alone = True

    def __init__(self, size: int, slots: int, query_size: int) -> None:
        super().__init__()
        self.width = size

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return torch.einsum("bhd,bh->bd", behaviours, mask.to(behaviours.dtype))


class Max(Sum):
    """Largest value of each dimension over the behaviours."""

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        largest = behaviours.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return torch.where(mask.any(dim=1, keepdim=True), largest, 0.0)


class Concat(nn.Module):
    """All behaviours side by side in their order, zeros in padded slots."""

    of_history_alone = True

    def __init__(self, size: int, slots: int, query_size: int) -> None:
        super().__init__()
        self.width = size * slots

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return (behaviours * mask[..., None]).flatten(1)


class Attentive(nn.Module):
    """Attentive pooling whose query is the shown item's image."""

    of_history_alone = False

    def __init__(self, size: int, slots: int, query_size: int) -> None:
        super().__init__()
        self.by_image = ActivationUnit(size)
        self.width = size

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return self.by_image(behaviours, mask, ad)


class MultiQueryAttentive(nn.Module):
    """Two channels over the same behaviours, one queried by the ad image, one by the ad ids; the sums side by side.

    The ids have another size than the images; one linear layer takes them there (ours: the paper does not say how).
    """

    of_history_alone = False

    def __init__(self, size: int, slots: int, query_size: int) -> None:
        super().__init__()
        self.by_image = ActivationUnit(size)
        self.by_ids = ActivationUnit(size)
        self.ids_to_query = nn.Linear(query_size, size)
        self.width = 2 * size

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        by_image = self.by_image(behaviours, mask, ad)
        by_ids = self.by_ids(behaviours, mask, self.ids_to_query(ad_ids))
        return torch.cat([by_image, by_ids], dim=-1)


AGGREGATORS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "concat": Concat,
    "max": Max,
    "sum": Sum,
    "attentive": Attentive,
    "multi_query_attentive": MultiQueryAttentive,
}
