"""The form "vector": embeddings through DICM's embedding model and an aggregator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from downstream.ams.joining import ServedImages
from downstream.forms.aggregators import make_aggregator
from downstream.forms.base import TUNING, Form
from downstream.images.embedder import make_embedder
from downstream.images.joined import ItemImages
from downstream.layers.blocks import gather, per_context
from downstream.settings import ImageSettings


class Vector(Form):
    """DICM's use of images (arXiv 1711.06505): one trainable embedding model for the ad image and the behaviour images.

    Features: the shown item's embedding, and the clicked items' pooled by an aggregator; each can be switched off.
    """

    # The embedding model centres the vectors.
    uses = TUNING | {"aggregator", "ad_image", "behaviour_images", "hidden", "size"}

    def __init__(
        self,
        images: ItemImages | ServedImages,
        settings: ImageSettings,
        options: Any = None,
        *,
        slots: int,
        query_size: int,
    ) -> None:
        super().__init__()
        size = settings.size
        self.embed = make_embedder(images, settings)
        self.pool = None
        if settings.behaviour_images:
            self.pool = make_aggregator(size, settings, slots=slots, query_size=query_size)
        self.ad_image = settings.ad_image
        self.width = size * self.ad_image + (self.pool.width if self.pool else 0)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        distinct = self.embed(batch["row"])
        ad = gather(distinct, batch["target"])
        features = [ad] if self.ad_image else []
        if self.pool:

            def pooled(rows: dict[str, Tensor]) -> Tensor:
                return self.pool(gather(distinct, rows["history"]), rows["mask"], ad, ad_ids)

            features.append(per_context(batch, pooled) if self.pool.of_history_alone else pooled(batch))
        return torch.cat(features, dim=-1)
