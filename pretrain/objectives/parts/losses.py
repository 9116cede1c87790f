"""Losses as pure functions of documented shapes, in float32."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.runtime.distributed import total, world_size


class Term(NamedTuple):
    """One named part of an objective.

    Attributes
    ----------
    loss : tensor
        Scalar whose mean over processes is the mean over the global batch.
    chance : tensor
        The same without gradient for embeddings that know nothing: ln(number of candidates).
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
    *,
    query: Tensor,
    query_item: Tensor,
    query_kept: Tensor,
    candidate: Tensor,
    candidate_item: Tensor,
    candidate_kept: Tensor,
    positive: Tensor,
    temperature: float | Tensor,
    bias: Tensor | None = None,
    further: Tensor | None = None,
) -> Term:
    """-log softmax over a of cos(candidate_a, query_b) / tau at b's own candidate (COURIER, arXiv 2306.05001).

    Another candidate that is the same item as b's is no negative: it is left out of b's softmax (ours).

    Parameters
    ----------
    query : float tensor (Q, D)
        This process's reconstructions r_b.
    query_item : long tensor (Q,)
        The item each one reconstructs.
    query_kept : bool tensor (Q,)
        The queries that count as rows of the loss.
    candidate : float tensor (A, D)
        The embeddings p_a of all processes.
    candidate_item : long tensor (A,)
    candidate_kept : bool tensor (A,)
        False for padding.
    positive : long tensor (Q,)
        Column of b's own candidate.
    temperature : float or tensor
        tau; a tensor where it is learned.
    bias : float tensor broadcastable to (Q, A)
        Added to the logits: -log q for candidates drawn more often than others, log w for candidates that weigh w in
        the sum, -inf for those to leave out; b's own must stay finite.
    further : bool tensor (Q, A)
        Candidates that are b's positives besides its own: a query's loss is then the mean over its positives of -log
        softmax (SupCon's L_out, arXiv 2004.11362, equation 2).

    Returns
    -------
    Term
        The mean over the kept queries of all processes.
    """
    query, candidate = F.normalize(query.float(), dim=-1), F.normalize(candidate.float(), dim=-1)
    logits = (query / temperature) @ candidate.T
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, positive[:, None], True)
    duplicate = (query_item[:, None] == candidate_item[None, :]) & ~own
    kept = (candidate_kept[None, :] & ~duplicate) | own
    if bias is not None:
        logits = logits + bias
        kept = kept & (bias > float("-inf"))
    logits = logits.masked_fill(~kept, float("-inf"))
    if further is None:
        values = F.cross_entropy(logits, positive, reduction="none")
    else:
        found = (own | further) & kept
        values = logits.logsumexp(1) - logits.masked_fill(~found, 0.0).sum(1) / found.sum(1)
    return Term(global_mean(values, query_kept), global_mean(kept.sum(1).float().log(), query_kept))


def within_page(score: Tensor, positive: Tensor, negative: Tensor, temperature: float | Tensor) -> Term:
    """-log softmax at each clicked slot over itself and the page view's slots that were not clicked (ours).

    Parameters
    ----------
    score : float tensor (B, P)
        Such as cos(p_j, r_j).
    positive, negative : bool tensors (B, P)
        A page view without one of each does not count.
    temperature : float or tensor
        tau.
    """
    logits = score.float() / temperature
    rivals = logits.masked_fill(~negative, float("-inf"))
    rivals = torch.where(negative.any(1, keepdim=True), rivals, torch.zeros_like(rivals)).logsumexp(1, keepdim=True)
    kept = positive & negative.any(1, keepdim=True)
    chance = torch.log1p(negative.sum(1, keepdim=True).float()).expand_as(logits)
    return Term(global_mean(F.softplus(rivals - logits), kept), global_mean(chance, kept))


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, kept: Tensor, margin: float) -> Term:
    """max(0, margin - cos(anchor, positive) + cos(anchor, negative)), the mean over the kept triplets.

    Parameters
    ----------
    anchor, positive, negative : float tensors broadcastable to (..., D)
    kept : bool tensor (...)
    margin : float
        By which the positive must be nearer.
    """
    near, far = (F.cosine_similarity(anchor.float(), other.float(), dim=-1) for other in (positive, negative))
    values = F.relu(margin - near + far)
    return Term(global_mean(values, kept), global_mean(torch.full_like(values, margin), kept))


def negative_cosine(first: Tensor, second: Tensor, kept: Tensor) -> Term:
    """-cos(first, second), the mean over the kept rows (SimSiam, arXiv 2011.10566, equation 1).

    Parameters
    ----------
    first, second : float tensors (..., D)
    kept : bool tensor (...)
    """
    values = -F.cosine_similarity(first.float(), second.float(), dim=-1)
    return Term(global_mean(values, kept), torch.zeros_like(values.sum()).detach())


def classification(logits: Tensor, label: Tensor) -> Term:
    """Cross entropy of classes.

    Parameters
    ----------
    logits : float tensor (n, C)
    label : long tensor (n,)
        -1 where unknown: such rows do not count.
    """
    values = F.cross_entropy(logits.float(), label, ignore_index=-1, reduction="none")
    kept = label >= 0
    return Term(global_mean(values, kept), global_mean(torch.full_like(values, math.log(logits.shape[1])), kept))


def click_cross_entropy(logits: Tensor, click: Tensor, kept: Tensor) -> Term:
    """Binary cross entropy of clicks; chance is that of probability one half.

    Parameters
    ----------
    logits, click : float tensors (B, P)
    kept : bool tensor (B, P)
    """
    values = F.binary_cross_entropy_with_logits(logits.float(), click, reduction="none")
    return Term(global_mean(values, kept), global_mean(torch.full_like(values, math.log(2)), kept))
