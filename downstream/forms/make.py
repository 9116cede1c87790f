"""The form "make": a model that sees images alone, trained before the CTR model, lends it what it has learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from downstream.forms.base import Form, Train
from downstream.forms.vector import Vector
from downstream.images.joined import ItemImages

if TYPE_CHECKING:
    from downstream.data.ctr_data import CTRData
    from downstream.forms import ImageSettings


class Make(Form):
    """Hidden layers and logit of a multimodal model (MAKE, arXiv 2407.19467).

    The model is DIN's idea on the table's vectors, without IDs: the embedded image of the shown item, those of the
    clicked ones pooled with it as the query, and an MLP. IDs overfit after one epoch, images do not: it is trained for
    several epochs on the training split before the CTR model, stops at the first that is no better on validation, and
    is kept as it was at the best. It stays as it is while the CTR model is trained. Ours: the widths.
    """

    tunable = False  # its own training is over when the click is learned
    switches = False
    centres = True  # the embedding model does

    def __init__(self, images: ItemImages, settings: ImageSettings, slots: int, query_size: int) -> None:
        from downstream.models.multimodal import Multimodal  # the models import the forms

        super().__init__()
        own = replace(settings, form="vector", aggregator="attentive", centre=False)
        self.multimodal = Multimodal(lambda size: Vector(images, own, slots, size), settings.make_hidden, slots)
        self.epochs = settings.make_epochs
        self.trained: list[dict] = []
        self.width = sum(settings.make_hidden) + 1

    def fit(self, train: Train) -> None:
        self.trained = train(self.multimodal, self.epochs)
        self.multimodal.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(self.multimodal.layers(batch), dim=-1)

    def report(self, data: CTRData) -> dict:
        return {"make": self.trained}
