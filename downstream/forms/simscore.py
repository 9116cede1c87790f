"""The form "simscore": how alike the shown item and each clicked one look."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools.common.scratch import pieces
from downstream.forms.base import TUNING, Form
from downstream.forms.cosines import history_cosines
from downstream.images.joined import ItemImages
from downstream.images.tuning import raw_features
from downstream.settings import ImageSettings


class SimScore(Form):
    """Cosine of the shown item's vector with each clicked item's, most recent first (COURIER, arXiv 2306.05001).

    Features: the cosine and whether there is one for each of the H slots; their mean, their largest, and whether
    there is any. Slots where either image is missing have no cosine. Ours: mean and largest, and that cosines are
    standardised by the mean and standard deviation over all pairs of warm items, in which encoders differ a lot.
    """

    uses = TUNING | {"centre"}

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Any, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        self.features = raw_features(images, settings)
        fitted, summed, products = images.fitted, 0.0, 0.0
        for piece in pieces(len(fitted)):
            unit = fitted[piece].astype(np.float64)
            unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
            summed, products = summed + unit.sum(axis=0), products + unit.T @ unit
        # Over all pairs, E[cos] = |mean|^2 and E[cos^2] = |X'X / n|^2 (Frobenius): no pair has to be visited.
        self.mean = float(np.square(summed / len(fitted)).sum())
        second = float(np.square(products / len(fitted)).sum())
        self.spread = max(second - self.mean**2, 1e-12) ** 0.5
        self.width = 2 * slots + 3

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        cosines, known = history_cosines(self.features, batch)
        scores = torch.where(known, (cosines - self.mean) / self.spread, 0.0)
        some = known.any(dim=1, keepdim=True)
        mean = scores.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
        largest = scores.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True).where(some, 0.0)
        return torch.cat([scores, known.float(), mean, largest, some.float()], dim=-1)
