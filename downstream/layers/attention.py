"""DIN's activation unit (arXiv 1706.06978, section 4.3), on the slots of a history that hold a behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from downstream.layers.blocks import gather, mlp
from downstream.layers.prelu import prelu, prelu_backward


class ActivationUnit(nn.Module):
    """Weights of behaviours e for a query v, an MLP on (e, v, e - v, e * v), and their weighted sum.

    The inputs are DIN's. Its text leaves the weights as they are, its released code applies the softmax over the
    behaviours, which is the default here; so is one hidden layer of 36 (ours).

    Parameters
    ----------
    size : int
        Of e and v.
    hidden : sequence of int
        Widths of the MLP.
    softmax : bool
        Whether a row's weights are made to sum to 1.
    activation : str
        "prelu" or "dice".
    """

    def __init__(
        self, size: int, hidden: Sequence[int] = (36,), softmax: bool = True, activation: str = "prelu"
    ) -> None:
        super().__init__()
        self.score = mlp([4 * size, *hidden], 1, activation)
        self.softmax = softmax
        self.slopes = activation == "prelu"

    def forward(self, behaviours: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """(B, H, d), (B, H), (B, d) -> weighted sum (B, d); zeros for a row without behaviours."""
        slot = mask.flatten().nonzero().squeeze(1)
        return self.pool(gather(behaviours.flatten(0, 1), slot), slot, mask, query)

    def pool(self, e: Tensor, slot: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """The same for the S slots that hold one: (S, d), their places in the flat mask (S), (B, H), (B, d)."""
        row, lengths = slot // mask.shape[1], mask.sum(dim=1)
        starts = lengths.cumsum(0) - lengths
        weights = self.scores(e, query, row, starts)
        if self.softmax:
            scores = torch.full(mask.shape, -torch.inf, dtype=e.dtype, device=e.device).masked_scatter(mask, weights)
            # A row without behaviours is all -inf: its softmax is nan, which must not reach the gradient.
            scores = scores.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
            weights = gather(torch.softmax(scores, dim=1).flatten(), slot)
        return _WeightedSums.apply(e, weights, row, starts)

    def scores(self, e: Tensor, query: Tensor, row: Tensor, starts: Tensor) -> Tensor:
        """The MLP's output (S) for the slots' e (S, d), queries (B, d), the slots' rows (S), each row's first slot (B).

        The first layer is linear in (e, v, e - v, e * v), so its weights are folded to those of (e, e * v) and of v,
        which a row's slots share.
        """
        first = self.score[0]
        of_e, of_v, of_difference, of_product = first.weight.chunk(4, dim=1)
        of_pair = torch.cat([of_e + of_difference, of_product], dim=1)
        of_query = nn.functional.linear(query, of_v - of_difference, first.bias)
        if self.slopes and e.is_cpu:
            return _PairScores.apply(e, query, row, starts, of_query, of_pair, *list(self.score.parameters())[2:])
        hidden = nn.functional.linear(_pair(e, gather(query, row)), of_pair) + gather(of_query, row)
        return self.score[1:](hidden).squeeze(1)


def _pair(e: Tensor, v: Tensor) -> Tensor:
    return torch.cat([e, e * v], dim=1)


def _row_sums(x: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of the (weighted) slots of each row: (S, n), (B), (S) -> (B, n); the slots are in the order of their rows.

    By ``embedding_bag``, which takes a tenth of the time of ``index_add``.
    """
    every = torch.arange(len(x), device=x.device)
    return nn.functional.embedding_bag(every, x, starts, mode="sum", per_sample_weights=weights)


class _WeightedSums(torch.autograd.Function):
    """Weighted sums of the slots of each row."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, weights: Tensor, row: Tensor, starts: Tensor) -> Tensor:
        """(S, d), (S), (S), (B) -> (B, d); see :func:`_row_sums`."""
        ctx.save_for_backward(e, weights, row)
        return _row_sums(e, starts, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ahead: Tensor) -> tuple[Tensor | None, ...]:
        e, weights, row = ctx.saved_tensors
        ahead = gather(ahead, row)
        return ahead * weights[:, None], (ahead * e).sum(dim=1), None, None


class _PairScores(torch.autograd.Function):
    """The activation unit's MLP with PReLU on a CPU, a piece of the slots at a time.

    What layers pass on for all slots is far larger than a core's cache, and memory is what a plain backward pass waits
    for. Here a piece goes through all layers while it is in the cache; only the inputs of each PReLU are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        e: Tensor,
        query: Tensor,
        row: Tensor,
        starts: Tensor,
        of_query: Tensor,
        of_pair: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        """Scores (S).

        Parameters
        ----------
        e, query, row, starts : Tensor
            See :meth:`ActivationUnit.scores`.
        of_query : Tensor
            What the first hidden layer (of width h) adds up from the queries and its bias (B, h).
        of_pair : Tensor
            Its weight (h, 2 d) on (e, e * v).
        *parameters : Tensor
            Its slope; weight, bias and slope of each further hidden layer; a last weight and bias.
        """
        slope, *rest = parameters
        *hidden, (weight, bias) = _layers(rest)
        # A tensor a piece: one of tens of megabytes would be new memory at each step, and its pages cost as much time
        # as a layer.
        ctx.pieces, ctx.before = _pieces(starts, len(e)), []
        scores = e.new_empty(len(e))
        for slots, _ in ctx.pieces:
            before = [gather(of_query, row[slots]).addmm_(_pair(e[slots], gather(query, row[slots])), of_pair.T)]
            x = prelu(before[-1], slope)
            for into, offset, further in hidden:
                before.append(torch.addmm(offset, x, into.T))
                x = prelu(before[-1], further)
            torch.addmv(bias, x, weight[0], out=scores[slots])
            ctx.before.append(before)
        ctx.save_for_backward(e, query, row, starts, of_query, of_pair, *parameters)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ahead: Tensor) -> tuple[Tensor | None, ...]:
        e, query, row, starts, of_query, of_pair, *parameters = ctx.saved_tensors
        to_e, to_query, to_of_query, to_of_pair = map(torch.zeros_like, (e, query, of_query, of_pair))
        to_slope, *to_rest = gradients = [torch.zeros_like(parameter) for parameter in parameters]
        slope, *rest = parameters
        *hidden, (weight, _) = _layers(rest)
        *to_hidden, (to_weight, to_bias) = _layers(to_rest)
        to_bias += ahead.sum()
        for (slots, rows), kept in zip(ctx.pieces, ctx.before, strict=True):
            own, v, first = e[slots], gather(query, row[slots]), starts[rows] - slots.start
            inputs = [prelu(z, of_it) for z, of_it in zip(kept, (slope, *(layer[2] for layer in hidden)), strict=True)]
            to_weight[0].addmv_(inputs[-1].T, ahead[slots])
            dx = torch.outer(ahead[slots], weight[0])
            for (into, _, further), (to_into, to_offset, to_further), z, x in reversed(
                list(zip(hidden, to_hidden, kept[1:], inputs[:-1], strict=True))
            ):
                dz, part = prelu_backward(dx, z, further)
                to_further.add_(part)
                to_into.addmm_(dz.T, x)
                to_offset.add_(dz.sum(dim=0))
                dx = dz @ into
            dz, part = prelu_backward(dx, kept[0], slope)
            to_slope.add_(part)
            to_of_pair.addmm_(dz.T, _pair(own, v))
            to_of_query[rows] = _row_sums(dz, first)
            of_e, of_product = (dz @ of_pair).chunk(2, dim=1)
            torch.addcmul(of_e, of_product, v, out=to_e[slots])
            to_query[rows] = _row_sums(of_product * own, first)
        return to_e, to_query, None, None, to_of_query, to_of_pair, *gradients


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """(weight, bias, slope) of each hidden layer, then (weight, bias)."""
    return [tuple(parameters[start : start + 3]) for start in range(0, len(parameters), 3)]


def _pieces(starts: Tensor, count: int, size: int = 2048) -> list[tuple[slice, slice]]:
    """(slots, rows) of pieces of whole rows, some ``size`` of the slots for each thread.

    At 2,048 of them, two layers of 80 and 40 fit the cache of a core.
    """
    first = torch.searchsorted(starts, torch.arange(0, count, size * torch.get_num_threads())).unique()
    first = first[first < len(starts)]
    rows, slots = [*first.tolist(), len(starts)], [*starts[first].tolist(), count]
    return [(slice(*slot), slice(*row)) for slot, row in zip(pairwise(slots), pairwise(rows), strict=True)]
