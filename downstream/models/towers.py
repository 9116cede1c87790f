"""Two towers: a vector of the user and the request, a vector of the item, and a score from their inner product."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from downstream.data.ctr_data import CTRData
from downstream.data.tensors import tensors
from downstream.forms.base import TUNING
from downstream.models.base import CTRModel


class Towers(CTRModel):
    """A model that ranks the items of a request by ``user_vectors(batch) . item_vectors(batch)``.

    An item's vector depends on nothing but the item, so it is computed once and kept (:func:`catalogue_vectors`).
    """

    forms = ("vector",)  # towers see no pairs of user and item
    uses_of_images = TUNING | {"hidden", "size"}  # the embedding model is all that they take

    def user_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        """Vectors (B, d) of users with their history and scene."""
        raise NotImplementedError

    def item_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        """Vectors (M, d) of the distinct items; needs no more of a batch than ``CTRData.item_batch`` gives."""
        raise NotImplementedError


@torch.inference_mode()
def catalogue_vectors(model: Towers, data: CTRData, rows: np.ndarray, chunk: int = 4096) -> np.ndarray:
    """The vectors of items at rows of ``items.parquet``: float32 (len(rows), d)."""
    model.eval()
    parts = [
        model.item_vectors(tensors(data.item_batch(part))) for part in np.split(rows, range(chunk, len(rows), chunk))
    ]
    return torch.cat(parts).numpy()
