"""DIN's activation unit (arXiv 1706.06978, section 4.3), on the slots of a history that hold a behaviour."""

from __future__ import annotations

from collections.abc import Sequence
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
        row = slot // mask.shape[1]
        weights = self.scores(e, gather(query, row))
        if self.softmax:
            scores = torch.full(mask.shape, -torch.inf, dtype=e.dtype, device=e.device).masked_scatter(mask, weights)
            # A row without behaviours is all -inf: its softmax is nan, which must not reach the gradient.
            scores = scores.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
            weights = gather(torch.softmax(scores, dim=1).flatten(), slot)
        return torch.zeros_like(query).index_add(0, row, weights[:, None] * e)

    def scores(self, e: Tensor, v: Tensor) -> Tensor:
        """The MLP's output (S) for pairs (S, d), (S, d).

        The first layer is linear in (e, v, e - v, e * v), so its weights are folded to those of (e, v, e * v).
        """
        first = self.score[0]
        of_e, of_v, of_difference, of_product = first.weight.chunk(4, dim=1)
        folded = torch.cat([of_e + of_difference, of_v - of_difference, of_product], dim=1)
        if self.slopes and e.is_cpu:
            return _PairScores.apply(e, v, folded, *list(self.score.parameters())[1:])
        hidden = nn.functional.linear(_pair(e, v), folded, first.bias)
        return self.score[1:](hidden).squeeze(1)


def _pair(e: Tensor, v: Tensor) -> Tensor:
    return torch.cat([e, v, e * v], dim=1)


class _PairScores(torch.autograd.Function):
    """The activation unit's MLP with PReLU on a CPU, a piece of the slots at a time.

    What layers pass on for all slots is far larger than a core's cache, and memory is what a plain backward pass waits
    for. Here a piece goes through all layers while it is in the cache; only what stands before each PReLU is kept.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        """(S, d), (S, d); weight, bias, slope of each hidden layer, the first on (e, v, e * v); a last weight, bias."""
        *hidden, (weight, bias) = _layers(parameters)
        # A tensor a piece: one of tens of megabytes would be new memory at each step, and its pages cost as much time
        # as a layer.
        ctx.parts, ctx.before = _parts(len(e)), []
        scores = e.new_empty(len(e))
        for part in ctx.parts:
            x, before = _pair(e[part], v[part]), []
            for into, offset, slope in hidden:
                before.append(torch.addmm(offset, x, into.T))
                x = prelu(before[-1], slope)
            torch.addmv(bias, x, weight[0], out=scores[part])
            ctx.before.append(before)
        ctx.save_for_backward(e, v, *parameters)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ahead: Tensor) -> tuple[Tensor, ...]:
        e, v, *parameters = ctx.saved_tensors
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        *hidden, (weight, _) = _layers(parameters)
        *of_hidden, (of_weight, of_bias) = _layers(gradients)
        of_e, of_v = torch.empty_like(e), torch.empty_like(v)
        of_bias += ahead.sum()
        for part, kept in zip(ctx.parts, ctx.before, strict=True):
            inputs = [_pair(e[part], v[part]), *(prelu(z, layer[2]) for z, layer in zip(kept, hidden, strict=True))]
            of_weight[0].addmv_(inputs[-1].T, ahead[part])
            dx = torch.outer(ahead[part], weight[0])
            for (into, _, slope), own, z, x in reversed(list(zip(hidden, of_hidden, kept, inputs[:-1], strict=True))):
                dz, of_slope = prelu_backward(dx, z, slope)
                own[2].add_(of_slope)
                own[0].addmm_(dz.T, x)
                own[1].add_(dz.sum(dim=0))
                dx = dz @ into
            to_e, to_v, to_product = dx.chunk(3, dim=1)
            torch.addcmul(to_e, to_product, v[part], out=of_e[part])
            torch.addcmul(to_v, to_product, e[part], out=of_v[part])
        return of_e, of_v, *gradients


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """(weight, bias, slope) of each hidden layer, then (weight, bias)."""
    return [tuple(parameters[start : start + 3]) for start in range(0, len(parameters), 3)]


def _parts(count: int, size: int = 2048) -> list[slice]:
    """Pieces of the slots; at 2,048 of them a thread, two layers of 80 and 40 fit the cache of its core."""
    size *= torch.get_num_threads()
    return [slice(start, start + size) for start in range(0, count, size)]
