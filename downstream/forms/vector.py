"""The form "vector": embeddings through DICM's embedding model and an aggregator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from downstream.forms.aggregators import AGGREGATORS
from downstream.forms.base import Form
from downstream.images.joined import ItemImages, make_embedder
from downstream.layers.blocks import gather, once

if TYPE_CHECKING:
    from downstream.forms import ImageSettings


class Vector(Form):
    """DICM's use of images (arXiv 1711.06505): one trainable embedding model for the ad image and the behaviour images.

    Features: the shown item's embedding, and the clicked items' pooled by an aggregator; each can be switched off.
    """

    tunable = True
    switches = True
    centres = True  # the embedding model does

    def __init__(self, images: ItemImages, settings: ImageSettings, slots: int, query_size: int) -> None:
        super().__init__()
        size = settings.size
        self.embed = make_embedder(images, settings)
        self.pool = None
        if settings.behaviour_images:
            self.pool = AGGREGATORS[settings.aggregator](size, slots, query_size)
        self.ad_image = settings.ad_image
        self.width = size * self.ad_image + (self.pool.width if self.pool else 0)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        distinct = self.embed(batch["row"])
        ad = gather(distinct, batch["target"])
        features = [ad] if self.ad_image else []
        if self.pool:

            def pooled(rows: dict[str, Tensor]) -> Tensor:
                return self.pool(gather(distinct, rows["history"]), rows["mask"], ad, ad_ids)

            features.append(once(batch, pooled) if self.pool.of_history_alone else pooled(batch))
        return torch.cat(features, dim=-1)
