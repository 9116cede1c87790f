"""SimScore: the mean cosine of a shown item and the items the user clicked before.

COURIER (arXiv 2306.05001) hands the single cosines to a CTR model; their mean, as one score, is our choice.
"""

from __future__ import annotations

from data_tools.measures.arrays import Array, library

AT_ONCE = 1 << 24  # numbers of vectors that are gathered at a time


def mean_history(unit: Array, history: Array) -> Array:
    """Mean unit vector of each history: (R, D), zeros for one without items.

    Parameters
    ----------
    unit : float array or tensor (N, D)
        Vectors of length one.
    history : integer array or tensor (R, H)
        Indices into ``unit``, -1 for padding.
    """
    present = history >= 0
    clicked = unit[history.clip(0)] * present[..., None]
    return clicked.sum(axis=1) / present.sum(axis=1, keepdims=True).clip(1)


def sim_scores(unit: Array, history: Array, page: Array) -> Array:
    """SimScore of each slot of a page view: (R, P); 0 for a history without items.

    Page views are scored some at a time: the vectors of all their items would take many times the table's memory.

    Parameters
    ----------
    unit : float array or tensor (N, D)
        Vectors of length one.
    history : integer array or tensor (R, H)
        Indices into ``unit``, -1 for padding.
    page : integer array or tensor (R, P)
        The same; the scores of padding mean nothing.
    """
    step = max(1, AT_ONCE // max(1, (history.shape[1] + page.shape[1]) * unit.shape[1]))
    parts = [slice(start, start + step) for start in range(0, max(1, len(page)), step)]
    scores = [_scores(unit, history[part], page[part]) for part in parts]
    return library(unit).concatenate(scores)


def _scores(unit: Array, history: Array, page: Array) -> Array:
    return library(unit).einsum("rpd,rd->rp", unit[page.clip(0)], mean_history(unit, history))
