"""Contrastive losses as pure functions of documented shapes, in float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.distributed import total, world_size


class Term(NamedTuple):
    """One named part of an objective.

    Attributes
    ----------
    loss : scalar whose mean over processes is the mean over the global batch
    chance : the same without gradient for embeddings that know nothing: ln(number of candidates)
    """

    loss: Tensor
    chance: Tensor


def global_mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean of ``values`` (n) over the entries ``kept`` (n, bool) of *all* processes.

    Scaled by the number of processes, so that averaging gradients over processes, as data-parallel training does,
    gives the gradient of the mean over the global batch, however the rows are spread.
    """
    count = total(kept.sum()).clamp(min=1)
    return torch.where(kept, values, torch.zeros_like(values)).sum() * world_size() / count


def info_nce(
    query: Tensor,
    query_item: Tensor,
    query_kept: Tensor,
    candidate: Tensor,
    candidate_item: Tensor,
    candidate_kept: Tensor,
    positive: Tensor,
    temperature: float,
) -> Term:
    """-log softmax over a of cos(candidate_a, query_b) / tau at b's own candidate (COURIER, arXiv 2306.05001).

    Another candidate that is the same item as b's is no negative: it is left out of b's softmax (ours).

    Parameters
    ----------
    query : float tensor (Q, D), this process's reconstructions r_b
    query_item : long tensor (Q,), the item each one reconstructs
    query_kept : bool tensor (Q,), the queries that count as rows of the loss
    candidate : float tensor (A, D), the embeddings p_a of all processes
    candidate_item : long tensor (A,)
    candidate_kept : bool tensor (A,), false for padding
    positive : long tensor (Q,), column of b's own candidate
    temperature : tau

    Returns
    -------
    Term
        The mean over the kept queries of all processes.
    """
    query, candidate = F.normalize(query.float(), dim=-1), F.normalize(candidate.float(), dim=-1)
    logits = query @ candidate.T / temperature
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, positive[:, None], True)
    duplicate = (query_item[:, None] == candidate_item[None, :]) & ~own
    kept = (candidate_kept[None, :] & ~duplicate) | own
    logits = logits.masked_fill(~kept, float("-inf"))
    values = logits.logsumexp(1) - logits.gather(1, positive[:, None]).squeeze(1)
    return Term(global_mean(values, query_kept), global_mean(kept.sum(1).float().log(), query_kept))
