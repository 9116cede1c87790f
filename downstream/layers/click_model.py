"""What the training loop needs of a model of the click: a CTR model, or a network that a form trains before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClickModel(nn.Module):
    """A model called as ``model(batch)`` that gives the logits of the clicks (B,)."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,) of a batch (see ``downstream.data.ctr_data``)."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What the model learns, a scalar: the mean binary cross-entropy of the clicks."""
        return nn.functional.binary_cross_entropy_with_logits(self(batch), batch["click"])

    def penalised_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What a step minimises, a scalar: the loss and the penalties of the weights, none by default."""
        return self.loss(batch)

    def probabilities(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities (B,) by task.

        Returns
        -------
        dict of str to Tensor
            "click" and, of a model of conversions, "conversion" and "purchase": the probability of click and purchase,
            and of the purchase after a click.
        """
        return {"click": torch.sigmoid(self(batch))}

    def after_step(self, lr: float) -> None:
        """Called after each step of the optimizer, for penalties that have no gradient; nothing by default.

        Parameters
        ----------
        lr : float
            Learning rate of the step.
        """
