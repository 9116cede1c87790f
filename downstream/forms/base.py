"""What every form has."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from downstream.data.ctr_data import CTRData
from downstream.layers.click_model import ClickModel

# Trains a model on the training split for at most so many epochs, leaves it at the epoch that is best on validation,
# and returns the figures of each epoch.
Train = Callable[[ClickModel, int], list[dict]]
# What of the section ``image`` decides how the raw features are learned.
TUNING = frozenset({"tune", "weights", "lr"})


class Form(nn.Module):
    """Image features of impressions, made as ``Form(images, settings, options, slots=..., query_size=...)``.

    A form with options has a dataclass ``Settings``; they are set as ``image.NAME.OPTION``.

    Parameters
    ----------
    images : ItemImages
        The table, joined to the dataset's items; with an image server, ServedImages (only the form "vector").
    settings : ImageSettings
        What all forms share.
    options : Settings
        The form's own options; None for a form without.
    slots : int
        H, the slots of a history.
    query_size : int
        Size of the shown item's ID embeddings.

    Attributes
    ----------
    width : int
        Of the features.
    uses : frozenset of str
        Shared settings that have an effect on the form; others are refused once they are changed. ``tune``, ``weights``
        and ``lr`` (:data:`TUNING`) belong to forms through which a gradient reaches the table, ``centre`` to those that
        do not centre the vectors themselves. ``gate`` works with every form.
    made_of : tuple of str
        Names of other forms whose options the form uses.
    """

    width: int
    uses: ClassVar[frozenset[str]] = frozenset()
    made_of: ClassVar[tuple[str, ...]] = ()

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        """Features (B, width) of a batch (see ``downstream.data.ctr_data``), given the shown items' ID embeddings."""
        raise NotImplementedError

    def fit(self, train: Train) -> None:
        """A training of the form's own before that of the CTR model; nothing by default."""

    def report(self, data: CTRData) -> dict:
        """What a run's summary says of the trained form; nothing by default."""
        return {}
