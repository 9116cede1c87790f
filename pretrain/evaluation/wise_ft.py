"""WiSE-FT (arXiv 2109.01903): weights between the initial and the tuned ones, the factor chosen on validation.

Tuned on few pictures, an encoder improves on those it has seen and may get worse on others; an average of both sets of
weights often keeps the best of both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretrain.evaluation.page_auc import Requests, chosen_auc, encoder_page_auc

FACTORS = tuple(step / 10 for step in range(11))


def interpolate(initial: dict[str, Tensor], tuned: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """State dict (1 - factor) x initial + factor x tuned; whole numbers, which are counts, are the tuned ones'.

    Batch norm's running statistics are interpolated as weights are.
    """
    return {
        name: torch.lerp(initial[name], value, factor) if value.is_floating_point() else value
        for name, value in tuned.items()
    }


def choose_factor(
    encoder: torch.nn.Module,
    initial: dict[str, Tensor],
    tuned: dict[str, Tensor],
    *,
    requests: Requests,
    choose_on: str,
) -> tuple[float, list[dict[str, Any]]]:
    """The factor whose weights have the best within-page AUC on ``requests``; of equal ones the largest.

    Parameters
    ----------
    encoder : nn.Module
        Any weights: those tried replace them.
    initial, tuned : state dicts
    requests : Requests
    choose_on : str
        "cold" or "warm"; the other slice counts where there are no such page views.

    Returns
    -------
    factor : float
    curve : list of dict
        ``factor``, ``warm`` and ``cold`` (AUC) of each factor tried.
    """
    best, curve = (-1.0, 1.0), []
    for factor in FACTORS:
        encoder.load_state_dict(interpolate(initial, tuned, factor))
        figures = encoder_page_auc(encoder, requests)
        curve.append({"factor": factor, **{name: figures[name]["auc"] for name in figures}})
        best = max(best, (chosen_auc(figures, choose_on, otherwise=factor), factor))
    return best[1], curve
