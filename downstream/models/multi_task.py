"""Several tasks over one look-up table: the click, and the purchase after it (ESMM, arXiv 1804.07931)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data_tools.common.errors import UserError
from downstream.data.ctr_data import CTRData
from downstream.layers.blocks import mlp
from downstream.models.base import CTRModel, MakeImages
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.settings import ModelSettings


def joint_loss(click: Tensor, purchase: Tensor, conversion: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(click) sigmoid(purchase) with the conversions; unknown ones (nan) are left out.

    All of shape (B,). The mean is over all rows, so that few known ones weigh little.
    """
    known = ~conversion.isnan()
    log_p = nn.functional.logsigmoid(click[known]) + nn.functional.logsigmoid(purchase[known])
    log_not = torch.log(-torch.expm1(log_p.clamp(max=-1e-6)))
    converted = conversion[known]
    return -(converted * log_p + (1 - converted) * log_not).sum() / len(click)


class ESMM(EmbeddingMLP):
    """pCTCVR = pCTR x pCVR, with the losses of click and conversion over all impressions.

    One table of IDs (and one embedding model of images) under a network for each task. The purchase is never trained on
    the clicks alone, of which there are few and which are no sample of the impressions.
    """

    @classmethod
    def make(cls, data: CTRData, settings: ModelSettings, options: Any, images: MakeImages | None) -> CTRModel:
        if data.conversion is None:
            raise UserError(
                f"model {settings.name!r} needs conversions, and {data.dataset.folder} has no column 'conversion'"
            )
        return super().make(data, settings, options, images)

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, images)
        self.purchase = mlp([self.width + self._passed(settings), *settings.hidden], 1, settings.activation)

    def _passed(self, settings: ModelSettings) -> int:
        """How many numbers the click's network passes on to the purchase's."""
        return 0

    def logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of the click, and of the purchase after a click: (B,) each."""
        features = self.features(batch)
        return self.mlp(features).squeeze(-1), self.purchase(features).squeeze(-1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        click, purchase = self.logits(batch)
        clicks = nn.functional.binary_cross_entropy_with_logits(click, batch["click"])
        return clicks + joint_loss(click, purchase, batch["conversion"])

    def probabilities(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        click, purchase = (torch.sigmoid(logits) for logits in self.logits(batch))
        return {"click": click, "purchase": purchase, "conversion": click * purchase}


class ESMMTransfer(ESMM):
    """ESMM whose purchase network also sees the click network's last hidden layer: label information transfer.

    The project's brief asks for the transfer and leaves its form open. The form is ours, and so is that the purchase's
    gradient stops there: the click is learned as without it.
    """

    def _passed(self, settings: ModelSettings) -> int:
        if not settings.hidden:
            raise UserError(f"model {settings.name!r} passes on a hidden layer, but hidden is empty; give it a width")
        return settings.hidden[-1]

    def logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = self.features(batch)
        hidden = self.mlp[:-1](features)
        purchase = self.purchase(torch.cat([features, hidden.detach()], dim=-1))
        return self.mlp[-1](hidden).squeeze(-1), purchase.squeeze(-1)
