"""Targets of behavioural objectives: what is found from its reconstruction, among what, and what counts otherwise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.runtime.distributed import gather, largest, rank


class Targets(NamedTuple):
    """What is to be found from its reconstruction, and padding.

    Attributes
    ----------
    index : long tensor (n,)
        Into the batch's distinct pictures, -1 for padding.
    row : long tensor (n,)
        The request of this process that each is of.
    clicked : bool tensor (n,)
    rebuilt : float tensor (n, D)
    known : bool tensor (n,)
        Whether there are clicks to rebuild it from.
    """

    index: Tensor
    row: Tensor
    clicked: Tensor
    rebuilt: Tensor
    known: Tensor


class Rivals(NamedTuple):
    """Targets that count otherwise in the softmax of another target of their own request.

    Attributes
    ----------
    among : bool tensor (n,)
    weight : float
        How often they count; 0 leaves them out.
    """

    among: Tensor
    weight: float


def click_targets(history: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each fresh click with the clicks before it alone, so that it is rebuilt from neither itself nor later ones.

    Over the training requests each click is fresh once, and so a target once, as COURIER's order asks, if it is in the
    history of a batch with a click before it.

    Parameters
    ----------
    history : long tensor (B, H)
        Oldest first, right-aligned, -1 for padding.
    fresh : long tensor (B,)
        How many of the last clicks are new since the user's request before.

    Returns
    -------
    row : long tensor (M,)
        The request; M is the same in all processes, at least 1, and filled up with padding.
    target : long tensor (M,)
        The click; -1 for padding.
    earlier : long tensor (M, H)
        The clicks before it; -1 for padding.
    """
    place = torch.arange(history.shape[1], device=history.device)
    row, slot = ((history >= 0) & (place >= len(place) - fresh[:, None])).nonzero(as_tuple=True)
    earlier = history[row].masked_fill(place >= slot[:, None], -1)
    padding = largest(max(len(row), 1), history.device) - len(row)
    target = F.pad(history[row, slot], (0, padding), value=-1)
    return F.pad(row, (0, padding)), target, F.pad(earlier, (0, 0, 0, padding), value=-1)


class Candidates(NamedTuple):
    """What targets are found among, of all processes.

    Attributes
    ----------
    vector : float tensor (A, D)
    item : long tensor (A,)
    kept : bool tensor (A,)
        False for those that do not count, such as padding.
    """

    vector: Tensor
    item: Tensor
    kept: Tensor


def same_request(
    targets: Targets, rivals: Rivals, positive: Tensor, requests: int, *, several: bool
) -> tuple[Tensor | None, Tensor | None]:
    """``bias`` and ``further`` of :func:`pretrain.objectives.parts.losses.info_nce` for targets of one request.

    They say how a request's other targets count, and which are positives; None where all count alike.

    Parameters
    ----------
    targets, rivals
        Of this process.
    positive : long tensor (Q,)
        Place of each query's own target among those of all processes.
    requests : int
        Of a process.
    several : bool
        Whether a request's other clicks are positives, too.

    Returns
    -------
    bias : float tensor (Q, A) or None
    further : bool tensor (Q, A) or None
    """
    if not several and rivals.weight == 1:
        return None, None
    row = gather(targets.row + rank() * requests)
    together = row[positive][:, None] == row[None, :]
    bias = further = None
    if several:
        further = together & gather(targets.clicked & (targets.index >= 0))[None, :]
    if rivals.weight != 1:
        others = (together & gather(rivals.among)[None, :]).scatter(1, positive[:, None], False)
        bias = torch.zeros(others.shape, device=others.device)
        bias = bias.masked_fill(others, math.log(rivals.weight) if rivals.weight else float("-inf"))
    return bias, further


def copies_of_clicked(item: Tensor, clicked: Tensor) -> Tensor:
    """Which slots of a page view show an item that is clicked in it, bool (B, P); they are no negatives.

    Parameters
    ----------
    item : long tensor (B, P)
    clicked : bool tensor (B, P)
    """
    return ((item[:, :, None] == item[:, None, :]) & clicked[:, None, :]).any(2)
