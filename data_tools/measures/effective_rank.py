"""How many dimensions the vectors of an embedding fill."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.scratch import pieces
from data_tools.measures.arrays import Array, library
from data_tools.tables.table import unit_vectors


def _unit(vectors: Array) -> Array:
    """Vectors (n, D) brought to length one, float64, which not every accelerator has."""
    if isinstance(vectors, Tensor):
        return F.normalize(vectors.cpu().double(), dim=-1)
    return unit_vectors(vectors).astype(np.float64)


def spectrum(vectors: Array) -> Array:
    """Singular values of the unit vectors of (N, D), falling, as shares of their sum: float64 (min(N, D),).

    They are the roots of the eigenvalues of what the rows (or the columns, if they are fewer) have in common, which is
    summed a piece at a time: right to 1e-8 of the largest, in 2 s where the decomposition of 12,000 rows of 2,256
    takes 7.
    """
    rows, columns = vectors.shape
    if rows > columns:
        common = sum(part.T @ part for part in (_unit(vectors[piece]) for piece in pieces(rows)))
    else:
        common = _unit(vectors) @ _unit(vectors).T
    values = library(vectors).linalg.eigvalsh(common).clip(0) ** 0.5
    values = values[::-1] if isinstance(values, np.ndarray) else values.flip(0)
    with np.errstate(invalid="ignore"):  # NaN where all vectors are zeros
        return values / values.sum()


def effective_rank(vectors: Array) -> float:
    """exp of the entropy of the spectrum (Roy and Vetterli, "The effective rank", 2007).

    Parameters
    ----------
    vectors : float array or tensor (N, D)
        Of any length above 0: their directions count.

    Returns
    -------
    float
        Between 1 (all vectors on one line) and min(N, D).
    """
    share, xp = spectrum(vectors), library(vectors)
    return float(xp.exp(-(share * xp.log(share.clip(1e-12))).sum()))
