"""Embedding & MLP: the baseline that every embedding has to beat, and DICM where it is given images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from downstream.layers.blocks import clicked_mean, gather, mlp, per_context
from downstream.models.base import CTRModel, MakeImages
from downstream.settings import ModelSettings


class EmbeddingMLP(CTRModel):
    """IDs of user, scene and item, and the IDs of the clicked items averaged, through an MLP.

    The base model of DICM (arXiv 1711.06505) and DIN (arXiv 1706.06978): 12 numbers an ID there, MLP 200-80 with PReLU
    as in DIN. With images in the form "vector" it is the Deep Image CTR Model of arXiv 1711.06505: IDs and image
    features through one MLP, learned together.
    """

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, images)
        self.width = self.context_width + 2 * self.item_width + (self.images.width if self.images else 0)
        self.mlp = mlp([self.width, *settings.hidden], 1, settings.activation)

    def features(self, batch: dict[str, Tensor]) -> Tensor:
        """What the MLP is shown of each row (B, width)."""
        items = self.embed_items(batch)
        ad_ids = gather(items, batch["target"])
        clicked = per_context(batch, lambda contexts: clicked_mean(items, contexts))
        features = [*self.embed_context(batch), ad_ids, clicked]
        if self.images:
            features.append(self.images(batch, ad_ids))
        return torch.cat(features, dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        return self.mlp(self.features(batch)).squeeze(-1)
