"""DIN's activation unit (arXiv 1706.06978, section 4.3), on the slots of a history that hold a behaviour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from downstream.layers.attention_on_cpu import PooledByPieces, padded
from downstream.layers.blocks import gather, mlp


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

    def forward(self, behaviours: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """(B, H, d), (B, H), (B, d) -> weighted sum (B, d); zeros for a row without behaviours."""
        history = torch.arange(mask.numel(), device=mask.device).view(mask.shape)
        return self.pool(behaviours.flatten(0, 1), history, mask, query)

    def pool(self, vectors: Tensor, history: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """The same of behaviours that are rows of (M, d), at the places (B, H)."""
        of_e, of_v, of_product = self._folded()
        if vectors.is_cpu and self._rising():
            first = padded(of_e.T), of_v, padded(of_product.T)
            rest = list(self.score.parameters())[1:]
            given = (history, mask, self.softmax, torch.is_grad_enabled())
            return PooledByPieces.apply(padded(vectors, 1), query, given, *first, *rest)
        slot = mask.flatten().nonzero().squeeze(1)
        row, e = slot // mask.shape[1], gather(vectors, gather(history.flatten(), slot))
        v = gather(query, row)
        pairs, folded = torch.cat([e, v, e * v], dim=1), torch.cat([of_e, of_v, of_product], dim=1)
        weights = self.score[1:](nn.functional.linear(pairs, folded, self.score[0].bias)).squeeze(1)
        if self.softmax:
            weights = _softmax(weights, slot, mask)
        return torch.zeros_like(query).index_add(0, row, weights[:, None] * e)

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's weights of e, v and e * v: it is linear in (e, v, e - v, e * v)."""
        of_e, of_v, of_difference, of_product = self.score[0].weight.chunk(4, dim=1)
        return of_e + of_difference, of_v - of_difference, of_product

    def _rising(self) -> bool:
        """Whether all activations are PReLU with a slope above 0, whose input can be told from its output."""
        activations = self.score[1::2]
        return all(isinstance(one, nn.PReLU) and one.weight.item() > 0 for one in activations)


def _softmax(weights: Tensor, slot: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the slots of each row, of weights (S) at slots (S) of a mask (B, H)."""
    scores = torch.full(mask.shape, -torch.inf, dtype=weights.dtype, device=weights.device)
    scores = scores.masked_scatter(mask, weights)
    # A row without behaviours is all -inf: its softmax is nan, which must not reach the gradient.
    scores = scores.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
    return gather(torch.softmax(scores, dim=1).flatten(), slot)
