"""What objectives share: a learnable temperature, guards against collapse, and what they may ask of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.objectives.parts.guards import covariance, first_copies, koleo, variance
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.distributed import gather
from pretrain.settings import Settings

LEAST_TEMPERATURE = 0.01  # CLIP's largest logit scale, 100


class Objective(nn.Module):
    """Base of all objectives: embeddings (N, D) of a batch's distinct pictures -> named terms.

    Attributes
    ----------
    batches : "requests", or "items" for catalogue pictures (see ``pretrain.data.stream``)
    views : how often a batch of catalogue pictures holds each, augmented anew
    annotate : what a batch of catalogue pictures says besides: records (n) -> dict of tensors (n, ...); or None
    """

    batches = "requests"
    views = 2
    annotate: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None

    def __init__(self, settings: Settings, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings.objective
        if self.settings.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(self.settings.temperature)))

    @property
    def temperature(self) -> float | Tensor:
        """tau of the contrastive softmax."""
        if self.settings.learn_temperature:
            return self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)
        return self.settings.temperature

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """The objective's own terms."""
        raise NotImplementedError

    def after_step(self, encoder: ImageEncoder) -> None:
        """What there is to do once the encoder's weights have moved."""

    def forward(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """The objective's own terms and the guards."""
        return self.terms(embeddings, batch) | self._guards(embeddings, batch)

    def _guards(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """Guards on page-view items, or on catalogue pictures. They know no clicks: their chance is their loss."""
        weights = self.settings.guards
        guards = {"koleo": koleo, "variance": variance, "covariance": covariance}
        wanted = {name: guard for name, guard in guards.items() if getattr(weights, name)}
        if not wanted:
            return {}
        everything = torch.arange(len(embeddings), device=embeddings.device)
        slots = batch["page"].reshape(-1) if "page" in batch else everything
        unit = F.normalize(embeddings.float(), dim=-1)[slots.clamp(min=0)]
        item, kept = gather(batch["image_item"][slots.clamp(min=0)]), gather(slots >= 0)
        distinct = gather(unit)[first_copies(item, kept)]
        losses = {f"{name}_loss": getattr(weights, name) * guard(distinct) for name, guard in wanted.items()}
        return {name: Term(loss, loss.detach()) for name, loss in losses.items()}
