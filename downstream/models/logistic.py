"""Logistic regression: the linear baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from downstream.data.codes import UNKNOWN
from downstream.layers.blocks import clicked_mean, gather, per_context
from downstream.models.base import CTRModel, MakeImages
from downstream.settings import ModelSettings


class Logistic(CTRModel):
    """One weight a code, and a sum: user, scene and item; the clicked items; and how they agree with the shown item.

    Each history item has a weight as a clicked one too (their mean over the history counts). A linear model cannot
    compare, so log(1 + clicks on the shown item) and log(1 + clicks in its category) are inputs (ours). Image
    features enter through one linear layer.
    """

    uses = frozenset({"l2"})

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, replace(settings, embedding=2), options, images)
        self.agreement = nn.Linear(2, 1)
        self.of_images = nn.Linear(self.images.width, 1) if self.images else None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        features = self.embed_items(batch)
        # The first of an item's two weights a feature is for the shown item, the second for a clicked one.
        shown, clicked = features.unflatten(1, (-1, 2)).sum(dim=1).unbind(dim=1)
        logits = shown[batch["target"]] + per_context(batch, lambda contexts: self._common(clicked, contexts))
        logits = logits + self.agreement(self._agreement(batch)).squeeze(-1)
        if self.images:
            logits = logits + self.of_images(self.images(batch, gather(features, batch["target"]))).squeeze(-1)
        return logits

    def _common(self, clicked: Tensor, contexts: dict[str, Tensor]) -> Tensor:
        """What user, scene and history add, (C,)."""
        mean = clicked_mean(clicked[:, None], contexts).squeeze(1)
        return mean + sum(context.sum(dim=1) for context in self.embed_context(contexts))

    def _agreement(self, batch: dict[str, Tensor]) -> Tensor:
        """log(1 + number of history slots) with the shown item, and with its category (B, 2)."""
        target, history, mask = batch["target"], batch["history"], batch["mask"]
        clicked, shown = batch["category"][history], batch["category"][target][:, None]
        same = torch.stack([history == target[:, None], (clicked == shown) & (shown != UNKNOWN)], dim=-1)
        return (same & mask[..., None]).sum(dim=1).to(self.agreement.weight.dtype).log1p()
