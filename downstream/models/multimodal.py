"""A model of the click that sees images alone: what the form "make" trains before the CTR model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from downstream.layers.blocks import mlp
from downstream.models.base import CTRModel, MakeImages, ModelSettings


class Multimodal(CTRModel):
    """Image features through an MLP; no IDs."""

    def __init__(self, images: MakeImages, hidden: Sequence[int], slots: int) -> None:
        super().__init__({}, ModelSettings(), images, slots)
        layers = list(mlp([self.images.width, *hidden], 1))
        # Linear and activation are one layer, and the last is linear alone.
        self.mlp = nn.ModuleList(nn.Sequential(*layers[place : place + 2]) for place in range(0, len(layers), 2))

    def layers(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Outputs of the hidden layers (B, width) one after the other, and the logits (B, 1)."""
        outputs = [self.images(batch, batch["click"].new_zeros(len(batch["click"]), 0))]
        for layer in self.mlp:
            outputs.append(layer(outputs[-1]))
        return outputs[1:]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        return self.layers(batch)[-1].squeeze(-1)
