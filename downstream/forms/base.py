"""What every form has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from downstream.data.ctr_data import CTRData

# Trains a model on the training split for at most so many epochs, leaves it at the epoch that is best on validation,
# and returns what is known of each epoch. The model has ``loss(batch)`` and ``probabilities(batch)``.
Train = Callable[[nn.Module, int], list[dict]]


class Form(nn.Module):
    """Image features of impressions, made as ``Form(images, settings, slots, query_size)``.

    Attributes
    ----------
    width : of the features
    tunable : whether a gradient reaches the table, so that it can be learned with the click
    switches : whether ad image and behaviour images can be switched off one by one
    centres : whether the form centres the vectors by itself
    """

    width: int
    tunable: ClassVar[bool]
    switches: ClassVar[bool]
    centres: ClassVar[bool] = False

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        """Features (B, width) of a batch (see ``downstream.data.ctr_data``), given the shown items' ID embeddings."""
        raise NotImplementedError

    def fit(self, train: Train) -> None:
        """A stage of the form's own before the CTR training; nothing by default."""

    def report(self, data: CTRData) -> dict:
        """What a trained form has to say of itself, for a run's summary; nothing by default."""
        return {}
