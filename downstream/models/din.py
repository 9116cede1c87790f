"""Deep Interest Network (arXiv 1706.06978)."""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.layers.attention import ActivationUnit
from downstream.layers.blocks import gather, mlp
from downstream.models.base import CTRModel, MakeImages, ModelSettings


class DIN(CTRModel):
    """IDs of user, scene and item, and the clicked items' IDs weighted by the activation unit, through an MLP.

    The setting ``softmax`` is off as in DIN's text, ``activation`` is "prelu" or "dice", ``l2`` the mini-batch aware
    regularisation. Given images it is DICM on DIN: their features stand beside the IDs in the MLP.
    """

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, images: MakeImages | None, slots: int) -> None:
        super().__init__(sizes, settings, images, slots)
        width = self.context_width + 2 * self.item_width + (self.images.width if self.images else 0)
        self.mlp = mlp([width, *settings.hidden], 1, settings.activation)
        self.interest = ActivationUnit(self.item_width, settings.attention, settings.softmax, settings.activation)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        items, mask = self.embed_items(batch), batch["mask"]
        ad_ids = gather(items, batch["target"])
        slot = mask.flatten().nonzero().squeeze(1)
        clicked = gather(items, gather(batch["history"].flatten(), slot))
        interest = self.interest.pool(clicked, slot, mask, ad_ids)
        features = [*self.embed_context(batch), ad_ids, interest]
        if self.images:
            features.append(self.images(batch, ad_ids))
        return self.mlp(torch.cat(features, dim=-1)).squeeze(-1)
