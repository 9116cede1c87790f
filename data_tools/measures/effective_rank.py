"""How many dimensions the vectors of an embedding fill."""

from __future__ import annotations

from data_tools.measures.arrays import Array, library


def spectrum(unit: Array) -> Array:
    """Singular values of unit vectors (N, D), falling, as shares of their sum."""
    values = library(unit).linalg.svdvals(unit)
    return values / values.sum()


def effective_rank(unit: Array) -> float:
    """exp of the entropy of the spectrum (Roy and Vetterli, "The effective rank", 2007).

    Parameters
    ----------
    unit : float array or tensor (N, D)
        Vectors of length one.

    Returns
    -------
    float
        Between 1 (all vectors on one line) and min(N, D).
    """
    share, xp = spectrum(unit), library(unit)
    return float(xp.exp(-(share * xp.log(share.clip(1e-12))).sum()))
