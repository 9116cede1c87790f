"""The activation unit with PReLU on a CPU: some rows at a time, each with its own first layer.

What layers pass on for all slots is far larger than a core's cache, and memory is what a plain pass waits for. Here the
histories of some rows, of about one length, go through all layers while they are in the cache.

Of a row, whose query v is the same for all behaviours e, the first layer is linear in e alone,

    W_e e + W_v v + W_p (e * v) + b = (W_e + W_p diag(v)) e + (W_v v + b),

a third of the products, and with a column of ones beside e there is nothing but one matrix product (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SLOTS = 2048  # at a time and thread: two layers of 80 and 40 of so many fit the cache of a core
WIDTH = 16  # of numbers that a processor multiplies at once: odd widths take up to twice the time


def padded(vectors: Tensor, last: float = 0.0) -> Tensor:
    """Vectors (M, d) with a last value and zeros, as wide as it takes; of a matrix (d, n), as many rows.

    With ``last``, (M + 1, W): a row of zeros follows the vectors, for slots without a behaviour.
    """
    if not last:
        return functional.pad(vectors, (0, 0, 0, _width(len(vectors)) - len(vectors)))
    count, size = vectors.shape
    wide = functional.pad(vectors, (0, _width(size) - size, 0, 1))
    wide[:count, size] = last
    return wide


def _width(size: int) -> int:
    return -(-(size + 1) // WIDTH) * WIDTH


@dataclass
class _Piece:
    """Some rows (R) of about one length, of at most L behaviours; N = R L slots.

    ``place`` (N) are rows of the vectors, ``e`` (R, L, W) these vectors, ``first`` (R, W, n) the rows' first layers,
    ``outputs`` those of the hidden layers (N, n), ``weights`` (R, L).
    """

    rows: Tensor
    place: Tensor
    e: Tensor
    first: Tensor
    outputs: list[Tensor]
    weights: Tensor


class PooledByPieces(torch.autograd.Function):
    """Weighted sums (B, d) of behaviours, for queries (B, d)."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, query: Tensor, given: tuple, *parameters: Tensor) -> Tensor:
        """Sums of the vectors (M + 1, W) of :func:`padded`.

        ``given`` are the behaviours' places (B, H), the mask (B, H), whether there is a softmax, and whether a gradient
        will be asked for. Then weights of e, v, e * v (W, n), (n, d), (W, n), bias and
        slope of the first layer; weight, bias and slope of the other hidden layers; the last one's weight and bias.
        """
        history, mask, softmax, learning = given
        of_e, of_v, of_product, bias, slope, *others, weight, offset = parameters
        size = query.shape[1]
        sums, ctx.pieces, ctx.softmax = torch.zeros_like(query), [], softmax
        slots, nothing = torch.arange(1, mask.shape[1] + 1), len(vectors) - 1
        for rows, own in _pieces(history.where(mask, nothing), (mask * slots).amax(dim=1)):
            e = vectors.index_select(0, own.flatten()).unflatten(0, own.shape)
            v = query.index_select(0, rows)
            first = torch.addcmul(of_e, functional.pad(v, (0, e.shape[2] - size))[..., None], of_product)
            torch.addmm(bias, v, of_v.T, out=first[:, size])
            x = functional.leaky_relu_(torch.bmm(e, first).flatten(0, 1), slope.item())
            outputs = [x]
            for into, other, rises in _layers(others):
                x = functional.leaky_relu_(torch.addmm(other, x, into.T), rises.item())
                outputs.append(x)
            weights = torch.addmv(offset, x, weight[0]).view(own.shape)
            if softmax:
                weights = torch.softmax(weights.masked_fill_(own == nothing, -torch.inf), dim=1)
            sums[rows] = torch.bmm(weights[:, None], e)[:, 0, :size]
            if learning:
                ctx.pieces.append(_Piece(rows, own.flatten(), e, first, outputs, weights))
        ctx.save_for_backward(vectors, query, *parameters)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ahead: Tensor) -> tuple[Tensor | None, ...]:
        vectors, query, *parameters = ctx.saved_tensors
        gradients = [torch.zeros_like(one) for one in (vectors, query, *parameters)]
        of_vectors, of_query, *own = gradients
        _, of_v, of_product, _, slope, *others, weight, _ = parameters
        to_e, to_v, to_product, to_bias, to_slope, *to_others, to_weight, to_offset = own
        size, wide = query.shape[1], functional.pad(ahead, (0, vectors.shape[1] - query.shape[1]))
        layers = list(zip(_layers(others), _layers(to_others), strict=True))
        for piece in ctx.pieces:
            up, v = wide.index_select(0, piece.rows), query.index_select(0, piece.rows)
            d_weights = torch.bmm(piece.e, up[..., None]).squeeze(2)
            if ctx.softmax:
                mean = (d_weights * piece.weights).sum(dim=1, keepdim=True)
                d_weights = (d_weights - mean) * piece.weights
            flat = d_weights.flatten()
            to_weight[0].addmv_(piece.outputs[-1].T, flat)
            to_offset.add_(flat.sum())
            dx = torch.outer(flat, weight[0])
            for (layer, to), x, before in zip(layers[::-1], piece.outputs[:0:-1], piece.outputs[-2::-1], strict=True):
                dz = _through(dx, x, layer[2], to[2])
                to[0].addmm_(dz.T, before)
                to[1].add_(dz.sum(dim=0))
                dx = dz @ layer[0]
            dz = _through(dx, piece.outputs[0], slope, to_slope).view(*piece.weights.shape, -1)
            d_first = torch.bmm(piece.e.transpose(1, 2), dz)
            to_e.add_(d_first.sum(dim=0))
            d_v, d_of_row = d_first[:, :size], d_first[:, size]
            to_product[:size].add_((v[..., None] * d_v).sum(dim=0))
            to_bias.add_(d_of_row.sum(dim=0))
            to_v.addmm_(d_of_row.T, v)
            of_query[piece.rows] = torch.addmm((d_v * of_product[:size]).sum(dim=2), d_of_row, of_v)
            de = torch.bmm(dz, piece.first.transpose(1, 2)).addcmul_(piece.weights[..., None], up[:, None])
            of_vectors.index_add_(0, piece.place, de.flatten(0, 1))
        # Row ``size`` of the first layers is that of the column of ones, which no weight of e is in.
        to_e[size:] = 0
        return of_vectors, of_query, None, *own


def _pieces(history: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (R) of about one length, the longest first, and the first L slots of their histories."""
    falling, order = lengths.sort(descending=True)
    numbers, slots, start = falling.tolist(), SLOTS * torch.get_num_threads(), 0
    history, filled = history[order], len(numbers) - numbers.count(0)
    while start < filled:
        piece = slice(start, min(start + max(1, slots // numbers[start]), filled))
        yield order[piece], history[piece, : numbers[start]]
        start = piece.stop


def _layers(parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """(weight, bias, slope) of each hidden layer after the first."""
    return [parameters[start : start + 3] for start in range(0, len(parameters), 3)]


def _through(dx: Tensor, x: Tensor, slope: Tensor, to_slope: Tensor) -> Tensor:
    """The gradient before PReLU from that after it and its output; that of the slope is added to what there is."""
    rises = slope.item()
    to_slope.add_(torch.dot(dx.flatten(), x.clamp(max=0).flatten()) / rises)
    return torch.ops.aten.leaky_relu_backward(dx, x, rises, True)
