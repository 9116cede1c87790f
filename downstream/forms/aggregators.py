"""Pooling of a user's behaviours into one vector (DICM, arXiv 1711.06505, section on behaviour images)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data_tools.common.plugins import Registry, options_of
from downstream.layers.attention import ActivationUnit
from downstream.settings import ImageSettings


class Aggregator(nn.Module):
    """Pools behaviours, called as ``pool(behaviours, mask, ad, ad_ids)``.

    An aggregator with options has a dataclass ``Settings``; they are set as ``image.NAME.OPTION``.

    Parameters
    ----------
    size : int
        d, of a behaviour's vector and of the shown item's.
    options : Settings
        The aggregator's own options; None for one without.
    slots : int
        H, the slots of a history.
    query_size : int
        q, of the shown item's ID embeddings.

    Attributes
    ----------
    width : int
        Of the result.
    of_history_alone : bool
        Whether the shown item does not matter: rows of one user and history are then pooled once.
    """

    width: int
    of_history_alone: ClassVar[bool] = False

    def __init__(self, size: int, options: Any = None, *, slots: int, query_size: int) -> None:
        super().__init__()
        self.width = size

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        """Pool the behaviours of each row.

        Parameters
        ----------
        behaviours : Tensor
            (B, H, d).
        mask : Tensor
            bool (B, H), true where a slot holds a behaviour; padded slots must not count.
        ad : Tensor
            (B, d), the vector of the shown item in the same space.
        ad_ids : Tensor
            (B, q), its ID embeddings.

        Returns
        -------
        Tensor
            (B, width), zeros for a row without behaviours.
        """
        raise NotImplementedError


class Sum(Aggregator):
    """Sum over the behaviours."""

    of_history_alone = True

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return torch.einsum("bhd,bh->bd", behaviours, mask.to(behaviours.dtype))


class Max(Aggregator):
    """Largest value of each dimension over the behaviours."""

    of_history_alone = True

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        largest = behaviours.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return torch.where(mask.any(dim=1, keepdim=True), largest, 0.0)


class Concat(Aggregator):
    """All behaviours side by side in their order, zeros in padded slots."""

    of_history_alone = True

    def __init__(self, size: int, options: Any = None, *, slots: int, query_size: int) -> None:
        super().__init__(size, slots=slots, query_size=query_size)
        self.width = size * slots

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return (behaviours * mask[..., None]).flatten(1)


class Attentive(Aggregator):
    """Attentive pooling whose query is the shown item's image."""

    def __init__(self, size: int, options: Any = None, *, slots: int, query_size: int) -> None:
        super().__init__(size, slots=slots, query_size=query_size)
        self.by_image = ActivationUnit(size)

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return self.by_image(behaviours, mask, ad)


class MultiQueryAttentive(Aggregator):
    """Attentive pooling once with the ad image as query and once with the ad IDs; the two sums side by side.

    The IDs have another size than the images; one linear layer maps them (ours: the paper does not say how).
    """

    def __init__(self, size: int, options: Any = None, *, slots: int, query_size: int) -> None:
        super().__init__(size, slots=slots, query_size=query_size)
        self.by_image = ActivationUnit(size)
        self.by_ids = ActivationUnit(size)
        self.ids_to_query = nn.Linear(query_size, size)
        self.width = 2 * size

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        by_image = self.by_image(behaviours, mask, ad)
        by_ids = self.by_ids(behaviours, mask, self.ids_to_query(ad_ids))
        return torch.cat([by_image, by_ids], dim=-1)


AGGREGATORS: Registry[type[Aggregator]] = Registry(
    "aggregator",
    "visual_interest.aggregators",
    {
        "concat": Concat,
        "max": Max,
        "sum": Sum,
        "attentive": Attentive,
        "multi_query_attentive": MultiQueryAttentive,
    },
)


def make_aggregator(size: int, settings: ImageSettings, *, slots: int, query_size: int) -> Aggregator:
    """The aggregator that the settings name, with its options (see :class:`Aggregator`)."""
    options = options_of(settings, settings.aggregator)
    return AGGREGATORS[settings.aggregator](size, options, slots=slots, query_size=query_size)
