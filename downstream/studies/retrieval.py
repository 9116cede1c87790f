"""Recall of a two-tower model among all items of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import torch

from downstream.data.ctr_data import CTRData
from downstream.data.tensors import tensors
from downstream.models.towers import Towers, catalogue_vectors


def nearest(query: np.ndarray, catalogue: np.ndarray, k: int) -> np.ndarray:
    """Positions (Q, k) of the catalogue's vectors (M, d) of largest inner product with each query (Q, d), exactly."""
    index = faiss.IndexFlatIP(catalogue.shape[1])
    index.add(catalogue)
    return index.search(query, min(k, len(catalogue)))[1]


@torch.inference_mode()
def user_queries(model: Towers, data: CTRData, rows: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Vectors of the users of some impressions at their times: float32 (len(rows), d)."""
    model.eval()
    parts = [model.user_vectors(tensors(data.batch(part))) for part in np.split(rows, range(chunk, len(rows), chunk))]
    return torch.cat(parts).numpy()


def recall(found: np.ndarray, wanted: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """k -> share of the rows whose wanted item is among the first k found: (Q, K), (Q,)."""
    hit = found == wanted[:, None]
    return {k: float(hit[:, :k].any(axis=1).mean()) for k in ks}


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
