"""Collapse watch: do the embeddings still tell pictures apart?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from data_tools.measures.effective_rank import effective_rank
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.parts.guards import Guards
from pretrain.settings import Settings

# Healthy range of each figure, and whether leaving it for long stops the run (the ranges are ours). Vectors whose mean
# cosine is 0.99 have a spread of 0.1, a uniformity of -0.04 and a mean squared distance of 0.02: one limit, four ways.
HEALTHY: dict[str, tuple[float, float, bool]] = {
    "effective_rank": (2.0, math.inf, True),
    "mean_cosine": (-1.0, 0.99, True),
    "spread": (0.1, math.inf, False),
    "uniformity": (-math.inf, -0.04, False),
    "alignment": (0.02, math.inf, False),
    "dead_share": (0.0, 0.5, False),
}
# A dimension is dead when its deviation is below this share of that of evenly spread vectors.
DEAD = 0.1


class CollapsedError(Exception):
    """The embeddings have become alike."""


def collapse_figures(embeddings: Tensor) -> dict[str, float]:
    """Figures of a batch's distinct pictures, (N, D).

    Returns
    -------
    dict
        ``effective_rank``; ``spread``, the mean over dimensions of the standard deviation of the unit vectors times
        sqrt(D) (1 for directions spread evenly); ``mean_cosine`` of pairs; ``uniformity``, ln mean exp(-2 |a - b|^2)
        over pairs (Wang & Isola 2020; 0 when all are equal); ``dead_share``, the share of dimensions that hardly vary.
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    count, size = unit.shape
    cosines = (unit @ unit.T)[~torch.eye(count, dtype=torch.bool, device=unit.device)]
    deviation = unit.std(0) * size**0.5
    return {
        "effective_rank": effective_rank(unit),
        "spread": float(unit.std(0).mean() * size**0.5),
        "dead_share": float((deviation < DEAD).float().mean()),
        "mean_cosine": float(cosines.mean()),
        "uniformity": float((-2 * (2 - 2 * cosines)).exp().mean().log()),
    }


def alignment(embeddings: Tensor, history: Tensor) -> float:
    """Mean squared distance of a user's consecutive clicks as unit vectors (Wang & Isola 2020's alignment, alpha 2).

    Parameters
    ----------
    embeddings : float tensor (N, D)
    history : long tensor (B, H)
        Indices into ``embeddings``, -1 for padding.
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    first, second = history[:, :-1], history[:, 1:]
    kept = (first >= 0) & (second >= 0)
    if not kept.any():
        return float("nan")
    return float((unit[first[kept]] - unit[second[kept]]).square().sum(-1).mean())


def unhealthy(figures: dict[str, float]) -> dict[str, str]:
    """The figures outside their healthy range, each with what would be healthy."""
    found = {}
    for name, (low, high, _) in HEALTHY.items():
        if name in figures and not math.isnan(figures[name]) and not low <= figures[name] <= high:
            found[name] = f"{figures[name]:.3g} (at least {low:g})" if figures[name] < low else ""
            found[name] = found[name] or f"{figures[name]:.3g} (at most {high:g})"
    return found


def likely_causes(settings: Settings) -> list[str]:
    """What in the settings is known to let embeddings collapse, the likeliest first."""
    objective = settings.objective
    causes = [cause for name, of in objective.parts.items() for cause in OBJECTIVES[name].collapse_causes(of)]
    if settings.batch.rows < 16 and not causes:
        causes.append(f"few negatives: batch.rows is {settings.batch.rows}")
    causes.append(f"too high a learning rate: optim.lr is {settings.optim.lr:g}")
    causes.append("pictures that are all alike")
    if objective.guards == Guards():
        causes.append("no guard is on (objective.guards.variance, covariance, koleo)")
    return causes


class CollapseWatch:
    """Raises :class:`CollapsedError` once a figure that stops was outside its range ``patience`` times in a row."""

    def __init__(self, settings: Settings, patience: int = 5) -> None:
        self.settings, self.patience = settings, patience
        self.strikes = 0

    def check(self, figures: dict[str, float]) -> None:
        """Judge the figures of one log line; raises once they have been unhealthy for too long."""
        found = unhealthy(figures)
        self.strikes = self.strikes + 1 if any(HEALTHY[name][2] for name in found) else 0
        if self.strikes >= self.patience:
            listed = ", ".join(f"{name.replace('_', ' ')} {words}" for name, words in found.items())
            raise CollapsedError(
                f"the embeddings have collapsed, {self.strikes} log lines in a row; outside their healthy range: "
                f"{listed}. Likely causes, the likeliest first: {'; '.join(likely_causes(self.settings))}"
            )
