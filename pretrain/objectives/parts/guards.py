"""Optional guards against collapse, on unit embeddings of distinct items of the global batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jsonargparse.typing import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.checks import Checked
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.distributed import gather


@dataclass(frozen=True)
class Guards(Checked):
    """Weights of optional terms against collapse, on the unit embeddings of a batch's targets; 0 leaves a term out.

    Attributes
    ----------
    koleo : float
        Pushes nearest neighbours apart (KoLeo).
    variance : float
        Pulls the variance of every dimension up to that of evenly spread vectors (VICReg).
    covariance : float
        Decorrelates the dimensions (VICReg).
    """

    koleo: NonNegativeFloat = 0.0
    variance: NonNegativeFloat = 0.0
    covariance: NonNegativeFloat = 0.0


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
    unit : float tensor (n, D)
        Unit vectors.
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
    unit : float tensor (n, D)
        Unit vectors.
    """
    if len(unit) < 2:
        return unit.sum() * 0
    scaled = unit * unit.shape[1] ** 0.5
    return F.relu(1 - (scaled.var(0) + 1e-4).sqrt()).mean()


def covariance(unit: Tensor) -> Tensor:
    """sum of squared off-diagonal covariances / D (VICReg's covariance term, arXiv 2105.04906), of sqrt(D) u.

    Parameters
    ----------
    unit : float tensor (n, D)
        Unit vectors.
    """
    if len(unit) < 2:
        return unit.sum() * 0
    centred = (unit - unit.mean(0)) * unit.shape[1] ** 0.5
    matrix = centred.T @ centred / (len(unit) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / unit.shape[1]


GUARDS = {"koleo": koleo, "variance": variance, "covariance": covariance}


def guard_losses(weights: Guards, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
    """Terms of the guards with a weight, on page-view items or on catalogue pictures.

    They know no clicks: their chance is their loss.

    Parameters
    ----------
    weights : Guards
    embeddings : float tensor (N, D)
        Of the batch's distinct pictures.
    batch : dict of tensors
        With ``image_item`` (N,) and, of requests, ``page`` (B, P).
    """
    wanted = {name: guard for name, guard in GUARDS.items() if getattr(weights, name)}
    if not wanted:
        return {}
    everything = torch.arange(len(embeddings), device=embeddings.device)
    slots = batch["page"].reshape(-1) if "page" in batch else everything
    unit = F.normalize(embeddings.float(), dim=-1)[slots.clamp(min=0)]
    item, kept = gather(batch["image_item"][slots.clamp(min=0)]), gather(slots >= 0)
    distinct = gather(unit)[first_copies(item, kept)]
    losses = {f"{name}_loss": getattr(weights, name) * guard(distinct) for name, guard in wanted.items()}
    return {name: Term(loss, loss.detach()) for name, loss in losses.items()}
