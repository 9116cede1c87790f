"""Recall@k of exact nearest-neighbour search by inner product."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np


def nearest(query: np.ndarray, catalogue: np.ndarray, k: int) -> np.ndarray:
    """Positions (Q, k) of the catalogue's vectors (M, d) of largest inner product with each query (Q, d), exactly.

    Both are float32; k is cut to M.
    """
    index = faiss.IndexFlatIP(catalogue.shape[1])
    index.add(catalogue)
    return index.search(query, min(k, len(catalogue)))[1]


def recall(found: np.ndarray, wanted: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """k -> share of the rows whose relevant item (``wanted``, (Q,)) is among the first k of ``found`` (Q, K)."""
    hit = found == wanted[:, None]
    return {k: float(hit[:, :k].any(axis=1).mean()) for k in ks}
