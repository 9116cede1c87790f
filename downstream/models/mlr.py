"""MLR, the mixture of logistic regressions, also called LS-PLM (arXiv 1704.05194)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jsonargparse.typing import NonNegativeFloat
from torch import Tensor, nn

from data_tools.common.checks import Checked
from downstream.layers.blocks import clicked_mean, gather, per_context
from downstream.models.base import CTRModel, MakeImages
from downstream.settings import ModelSettings

REGIONS = 12
WEIGHTS = 2 * REGIONS


class MLR(CTRModel):
    """p = sum_i softmax_i(u_i . x) sigmoid(w_i . x) over 12 regions, with L1 and L2,1 on the weights of the IDs.

    x holds user, scene and item, and the mean of the clicked items, whose codes have their own weights. Image
    features enter through one linear layer, whose weights are not penalised. Trained in batches by the common loop,
    with the proximal step of both penalties after each step of the optimizer (ours: the paper's own method takes all
    impressions at once); the penalties are relative to the mean loss, not to the sum.
    """

    uses = frozenset({"l2"})

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the penalties.

        Attributes
        ----------
        l1 : float
            beta, of the absolute values of the IDs' weights.
        l21 : float
            lambda, of the norm of each code's weights.
        """

        l1: NonNegativeFloat = 0.01
        l21: NonNegativeFloat = 0.01

    def __init__(
        self, sizes: dict[str, int], settings: ModelSettings, options: Settings, images: MakeImages | None
    ) -> None:
        super().__init__(sizes, replace(settings, embedding=2 * WEIGHTS), options, images)
        self.of_images = nn.Linear(self.images.width, WEIGHTS) if self.images else None
        self.bias = nn.Parameter(torch.zeros(WEIGHTS))
        self.l1, self.l21 = options.l1, options.l21

    def product(self, batch: dict[str, Tensor]) -> Tensor:
        """x Theta (B, 2 m)."""
        features = self.embed_items(batch)
        # Of a code's two halves the first is for the shown item, the second for a clicked one.
        shown, clicked = features.unflatten(1, (-1, 2, WEIGHTS)).sum(dim=1).unbind(dim=1)
        summed = gather(shown, batch["target"]) + self.bias
        summed = summed + per_context(batch, lambda contexts: self._common(clicked, contexts))
        if self.of_images:
            summed = summed + self.of_images(self.images(batch, gather(features, batch["target"])))
        return summed

    def _common(self, clicked: Tensor, contexts: dict[str, Tensor]) -> Tensor:
        """The part of x Theta that impressions of one user, history and scene share: the common-feature trick."""
        of_ids = [embedded[:, :WEIGHTS] for embedded in self.embed_context(contexts)]
        return sum(of_ids, clicked_mean(clicked, contexts))

    def _log_probabilities(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log p(click) and log p(no click), (B,) each."""
        gate, expert = self.product(batch).chunk(2, dim=1)
        gate = gate.log_softmax(dim=1)
        logs = [(gate + nn.functional.logsigmoid(sign * expert)).logsumexp(dim=1) for sign in (1, -1)]
        return logs[0], logs[1]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        click, none = self._log_probabilities(batch)
        return click - none

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        click, none = self._log_probabilities(batch)
        return -torch.where(batch["click"] == 1, click, none).mean()

    @torch.no_grad()
    def after_step(self, lr: float) -> None:
        """The proximal step: weights shrunk by lr beta, then the norms of the groups by lr lambda."""
        for embedding in self.ids.values():
            groups = embedding.weight.view(-1, WEIGHTS)
            groups.copy_(nn.functional.softshrink(groups, lr * self.l1))
            norms = groups.norm(dim=1, keepdim=True)
            groups.mul_((1 - lr * self.l21 / norms.clamp(min=1e-12)).clamp(min=0))
