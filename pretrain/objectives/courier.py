"""COURIER: page-view items and recent clicks, reconstructed from the clicks before them (COURIER, arXiv 2306.05001)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.distributed import gather, rank
from pretrain.losses import Term, info_nce
from pretrain.reconstruction import reconstruct
from pretrain.settings import Objective


def courier(embeddings: Tensor, batch: dict[str, Tensor], settings: Objective) -> dict[str, Term]:
    """L_pv and L_ucs.

    ``pv_loss``: each clicked page-view item is found, among all page-view items of the global batch, from its
    reconstruction by the user's history. ``ucs_loss``: the same for the most recent click, from the clicks before it,
    among the most recent clicks of the global batch.

    Parameters
    ----------
    embeddings : float tensor (N, D), of the batch's distinct pictures
    batch : with history (B, H), page (B, P), click (B, P) and image_item (N,)
    settings : temperatures and weights
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    history, page = batch["history"], batch["page"]
    clicked = batch["click"] > 0
    pv = _retrieve(unit, batch["image_item"], page, clicked, history, settings)
    latest, earlier = history[:, -1:], history[:, :-1]
    ucs = _retrieve(unit, batch["image_item"], latest, torch.ones_like(latest, dtype=torch.bool), earlier, settings)
    return {
        "pv_loss": Term(settings.pv_weight * pv.loss, settings.pv_weight * pv.chance),
        "ucs_loss": Term(settings.ucs_weight * ucs.loss, settings.ucs_weight * ucs.chance),
    }


def _retrieve(
    unit: Tensor, image_item: Tensor, target: Tensor, positive: Tensor, history: Tensor, settings: Objective
) -> Term:
    """InfoNCE of targets (B, T) reconstructed from history (B, H), both indices into ``unit`` with -1 for padding."""
    present = history >= 0
    reconstructed, _ = reconstruct(
        unit[target.clamp(min=0)], unit[history.clamp(min=0)], present, settings.attention_temperature
    )
    slots = target.reshape(-1)
    kept = (positive & (target >= 0) & present.any(1, keepdim=True)).reshape(-1)
    item = image_item[slots.clamp(min=0)]
    return info_nce(
        query=reconstructed.flatten(0, 1),
        query_item=item,
        query_kept=kept,
        candidate=gather(unit[slots.clamp(min=0)]),
        candidate_item=gather(item),
        candidate_kept=gather(slots >= 0),
        positive=torch.arange(len(slots), device=slots.device) + rank() * len(slots),
        temperature=settings.temperature,
    )
