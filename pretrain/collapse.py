"""Collapse watch: are the embeddings still telling pictures apart?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Below or above these an embedding space has lost its use (ours; untrained encoders start near them).
LEAST_EFFECTIVE_RANK = 2.0
MOST_MEAN_COSINE = 0.99


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
        over pairs (Wang & Isola 2020; 0 when all are equal).
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    count, size = unit.shape
    cosines = (unit @ unit.T)[~torch.eye(count, dtype=torch.bool, device=unit.device)]
    return {
        "effective_rank": effective_rank(unit),
        "spread": float(unit.std(0).mean() * size**0.5),
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


class CollapseWatch:
    """Raises :class:`CollapsedError` once the figures have been beyond the limits ``patience`` times in a row."""

    def __init__(self, patience: int = 5) -> None:
        self.patience = patience
        self.strikes = 0

    def look(self, figures: dict[str, float]) -> None:
        """Judge the figures of one log line."""
        rank, cosine = figures["effective_rank"], figures["mean_cosine"]
        collapsed = rank < LEAST_EFFECTIVE_RANK or cosine > MOST_MEAN_COSINE
        self.strikes = self.strikes + 1 if collapsed else 0
        if self.strikes >= self.patience:
            raise CollapsedError(
                f"the embeddings have collapsed: effective rank {rank:.2f} (above {LEAST_EFFECTIVE_RANK} is healthy), "
                f"mean cosine of pairs {cosine:.3f} (below {MOST_MEAN_COSINE} is healthy), {self.strikes} log lines in "
                "a row. Likely causes: too high a learning rate, too few negatives (raise batch.rows), or pictures "
                "that are all alike"
            )
