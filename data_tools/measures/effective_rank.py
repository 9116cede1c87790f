"""How many dimensions the vectors of an embedding fill."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from data_tools.measures.arrays import Array, library
from data_tools.tables.table import unit_vectors


def spectrum(vectors: Array) -> Array:
    """Singular values of the unit vectors of (N, D), in float32, falling, as shares of their sum."""
    is_tensor = isinstance(vectors, Tensor)
    unit = F.normalize(vectors.float(), dim=-1) if is_tensor else unit_vectors(vectors)
    values = library(unit).linalg.svdvals(unit)
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
