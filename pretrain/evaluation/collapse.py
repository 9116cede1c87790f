"""Collapse watch: are the embeddings still telling pictures apart?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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
    """The embeddings have become all alike."""


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the unit embeddings (Roy & Vetterli 2007).

    Parameters
    ----------
    embeddings : float tensor (N, D)

    Returns
    -------
    float
        Between 1 (all vectors on one line) and min(N, D).
    """
    values = torch.linalg.svdvals(F.normalize(embeddings.float(), dim=-1))
    share = values / values.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


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
    history : long tensor (B, H), indices into ``embeddings``, -1 for padding
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    first, second = history[:, :-1], history[:, 1:]
    kept = (first >= 0) & (second >= 0)
    if not kept.any():
        return float("nan")
    return float((unit[first[kept]] - unit[second[kept]]).square().sum(-1).mean())


def unhealthy(figures: dict[str, float]) -> dict[str, str]:
    """The figures that are beyond their healthy range, each with what would be healthy."""
    found = {}
    for name, (low, high, _) in HEALTHY.items():
        if name in figures and not math.isnan(figures[name]) and not low <= figures[name] <= high:
            found[name] = f"{figures[name]:.3g} (at least {low:g})" if figures[name] < low else ""
            found[name] = found[name] or f"{figures[name]:.3g} (at most {high:g})"
    return found


def likely_causes(settings: Settings) -> list[str]:
    """What in the settings is known to let embeddings collapse, the surest first."""
    objective, causes = settings.objective, []
    if objective.name == "courier" and not objective.contrast:
        causes.append(
            "objective.contrast is false: without negatives the reconstruction is best when all embeddings are equal "
            "(set it to true)"
        )
    if objective.name == "simsiam":
        causes.append("simsiam has no negatives: only its predictor and the held-back gradient keep it from collapse")
    if settings.batch.rows < 16 and not causes:
        causes.append(f"few negatives: batch.rows is {settings.batch.rows}")
    causes.append(f"too high a learning rate: optim.lr is {settings.optim.lr:g}")
    causes.append("pictures that are all alike")
    if not any(vars(objective.guards).values()):
        causes.append("no guard is on (objective.guards.variance, covariance, koleo)")
    return causes


class CollapseWatch:
    """Raises :class:`CollapsedError` once a figure that stops has been beyond its range ``patience`` times in a row."""

    def __init__(self, settings: Settings, patience: int = 5) -> None:
        self.settings, self.patience = settings, patience
        self.strikes = 0

    def look(self, figures: dict[str, float]) -> None:
        """Judge the figures of one log line."""
        found = unhealthy(figures)
        self.strikes = self.strikes + 1 if any(HEALTHY[name][2] for name in found) else 0
        if self.strikes >= self.patience:
            said = ", ".join(f"{name.replace('_', ' ')} {words}" for name, words in found.items())
            raise CollapsedError(
                f"the embeddings have collapsed, {self.strikes} log lines in a row; beyond their healthy range: "
                f"{said}. Likely causes, the surest first: {'; '.join(likely_causes(self.settings))}"
            )
