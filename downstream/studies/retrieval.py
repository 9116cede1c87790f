"""Recall of a two-tower model among all items of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from downstream.data.ctr_data import CTRData
from downstream.data.tensors import tensors
from downstream.models.towers import Towers, catalogue_vectors
from downstream.statistics.recall import nearest, recall


@torch.inference_mode()
def user_queries(model: Towers, data: CTRData, rows: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Vectors of the users of some impressions at their times: float32 (len(rows), d)."""
    model.eval()
    parts = [model.user_vectors(tensors(data.batch(part))) for part in np.split(rows, range(chunk, len(rows), chunk))]
    return torch.cat(parts).numpy()


def retrieve(model: Towers, data: CTRData, rows: np.ndarray, ks: Sequence[int]) -> dict[str, dict[int, float]]:
    """Recall@k of the model and of the items most clicked in training, over all items of the dataset."""
    everything = np.arange(len(data.item_code))
    found = nearest(user_queries(model, data, rows), catalogue_vectors(model, data, everything), max(ks))
    trained = data.rows["train"]
    clicks = np.bincount(data.item[trained], weights=data.click[trained], minlength=len(everything))
    popular = np.argsort(-clicks, kind="stable")[: max(ks)]
    wanted = data.item[rows]
    return {
        "model": recall(found, wanted, ks),
        "most clicked": recall(np.broadcast_to(popular, (len(rows), len(popular))), wanted, ks),
    }
