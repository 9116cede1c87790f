"""The form "make": a model that sees images alone is trained first; the CTR model gets what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from downstream.data.ctr_data import CTRData
from downstream.forms.base import Form, Train
from downstream.forms.vector import Vector
from downstream.images.joined import ItemImages
from downstream.layers.blocks import mlp
from downstream.layers.click_model import ClickModel
from downstream.settings import ImageSettings


class Multimodal(ClickModel):
    """Image features through an MLP, without IDs.

    Parameters
    ----------
    images : Form
        Gives the image features.
    hidden : sequence of int
        Widths of the MLP.
    """

    def __init__(self, images: Form, hidden: Sequence[int]) -> None:
        super().__init__()
        self.images = images
        layers = list(mlp([images.width, *hidden], 1))
        # Linear layer and activation are one layer here, and the last is linear alone.
        self.mlp = nn.ModuleList(nn.Sequential(*layers[place : place + 2]) for place in range(0, len(layers), 2))

    def layers(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Outputs of the hidden layers (B, width), one after the other, and the logits (B, 1)."""
        outputs = [self.images(batch, batch["click"].new_zeros(len(batch["click"]), 0))]
        for layer in self.mlp:
            outputs.append(layer(outputs[-1]))
        return outputs[1:]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layers(batch)[-1].squeeze(-1)


class Make(Form):
    """Hidden layers and logit of a multimodal model that is trained first (MAKE, arXiv 2407.19467).

    The model is DIN's idea on the table's vectors, without IDs: the embedded image of the shown item, those of the
    clicked ones pooled with it as the query, and an MLP. IDs overfit after one epoch, images do not: it is trained for
    several epochs on the training split before the CTR model, stops at the first that is no better on validation, and
    is kept as it was at the best. It is frozen while the CTR model is trained. Ours: the widths.
    """

    uses = frozenset({"hidden", "size"})  # of the embedding model, which centres the vectors

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the multimodal model.

        Attributes
        ----------
        hidden : tuple of int
            Widths of its MLP.
        epochs : int
            The most epochs that it is trained for.
        """

        hidden: tuple[PositiveInt, ...] = (64, 32)
        epochs: PositiveInt = 5

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.hidden:
                raise UserError("hidden is empty; give one width or more")

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Settings, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        own = replace(settings, aggregator="attentive")
        self.multimodal = Multimodal(Vector(images, own, slots=slots, query_size=0), options.hidden)
        self.epochs = options.epochs
        self.trained: list[dict] = []
        self.width = sum(options.hidden) + 1

    def fit(self, train: Train) -> None:
        self.trained = train(self.multimodal, self.epochs)
        self.multimodal.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(self.multimodal.layers(batch), dim=-1)

    def report(self, data: CTRData) -> dict:
        return {"make": self.trained}
