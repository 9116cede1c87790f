"""Optional guards against collapse, on unit embeddings of distinct items of the global batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def first_copies(item: Tensor, kept: Tensor) -> Tensor:
    """Which entries are the first kept copy of their item.

    Parameters
    ----------
    item : long tensor (n,)
    kept : bool tensor (n,)

    Returns
    -------
    bool tensor (n,)
    """
    place = torch.arange(len(item), device=item.device)
    same = (item[:, None] == item[None, :]) & kept[None, :]
    earlier = same & (place[None, :] < place[:, None])
    return kept & ~earlier.any(1)


def koleo(unit: Tensor) -> Tensor:
    """-mean_i ln(min_j |u_i - u_j|): pushes nearest neighbours apart (KoLeo, arXiv 1806.03198; as in DINOv2).

    Parameters
    ----------
    unit : float tensor (n, D), unit vectors
    """
    if len(unit) < 2:
        return unit.sum() * 0
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -torch.log(F.pairwise_distance(unit, unit[nearest], eps=1e-8) + 1e-8).mean()


def variance(unit: Tensor) -> Tensor:
    """mean_d max(0, 1 - std_d) (VICReg's variance term, arXiv 2105.04906), of sqrt(D) u.

    VICReg takes raw embeddings; only directions matter here. Scaled so, vectors spread evenly have a deviation of 1.

    Parameters
    ----------
    unit : float tensor (n, D), unit vectors
    """
    if len(unit) < 2:
        return unit.sum() * 0
    scaled = unit * unit.shape[1] ** 0.5
    return F.relu(1 - (scaled.var(0) + 1e-4).sqrt()).mean()


def covariance(unit: Tensor) -> Tensor:
    """sum of squared off-diagonal covariances / D (VICReg's covariance term, arXiv 2105.04906), of sqrt(D) u.

    Parameters
    ----------
    unit : float tensor (n, D), unit vectors
    """
    if len(unit) < 2:
        return unit.sum() * 0
    centred = (unit - unit.mean(0)) * unit.shape[1] ** 0.5
    matrix = centred.T @ centred / (len(unit) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / unit.shape[1]
