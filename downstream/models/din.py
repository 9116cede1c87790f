"""Deep Interest Network (arXiv 1706.06978)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from downstream.layers.attention import ActivationUnit
from downstream.layers.blocks import gather, mlp
from downstream.models.base import CTRModel, MakeImages
from downstream.settings import ModelSettings


class DIN(CTRModel):
    """IDs of user, scene and item, and the clicked items' IDs weighted by the activation unit, through an MLP.

    ``activation`` is "prelu" or "dice", ``l2`` the mini-batch aware regularisation. Given images it is DICM on DIN:
    their features are further inputs of the MLP.
    """

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the activation unit.

        Attributes
        ----------
        attention : tuple of int
            Widths of its MLP.
        softmax : bool
            Scale the weights of a history to a sum of 1, as DIN's released code does and its text does not.
        """

        attention: tuple[PositiveInt, ...] = (80, 40)
        softmax: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.attention:
                raise UserError("attention is empty; give one width or more")

    def __init__(
        self, sizes: dict[str, int], settings: ModelSettings, options: Settings, images: MakeImages | None
    ) -> None:
        super().__init__(sizes, settings, options, images)
        width = self.context_width + 2 * self.item_width + (self.images.width if self.images else 0)
        self.mlp = mlp([width, *settings.hidden], 1, settings.activation)
        self.interest = ActivationUnit(self.item_width, options.attention, options.softmax, settings.activation)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        items, mask = self.embed_items(batch), batch["mask"]
        ad_ids = gather(items, batch["target"])
        interest = self.interest.pool(items, batch["history"], mask, ad_ids)
        features = [*self.embed_context(batch), ad_ids, interest]
        if self.images:
            features.append(self.images(batch, ad_ids))
        return self.mlp(torch.cat(features, dim=-1)).squeeze(-1)
