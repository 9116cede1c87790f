"""DIN's activation unit (arXiv 1706.06978, section 4.3), on the slots of a history that hold a behaviour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from downstream.layers import gather, mlp


class ActivationUnit(nn.Module):
    """Weights of behaviours e for a query v, an MLP on (e, v, e - v, e * v), and their weighted sum.

    The inputs are DIN's. Its text leaves the weights as they are, its released code applies the softmax over the
    behaviours, which is the default here; so is one hidden layer of 36 (ours).

    Parameters
    ----------
    size : of e and v
    hidden : widths of the MLP
    softmax : whether a row's weights are made to sum to 1
    activation : "prelu" or "dice"
    """

    def __init__(
        self, size: int, hidden: Sequence[int] = (36,), softmax: bool = True, activation: str = "prelu"
    ) -> None:
        super().__init__()
        self.score = mlp([4 * size, *hidden], 1, activation)
        self.softmax = softmax

    def forward(self, behaviours: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """(B, H, d), (B, H), (B, d) -> weighted sum (B, d); zeros for a row without behaviours."""
        row, slot = mask.nonzero(as_tuple=True)
        return self.pool(behaviours[row, slot], row, mask, query)

    def pool(self, e: Tensor, row: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        """The same for the S slots that hold a behaviour: (S, d), their rows (S), (B, H), (B, d) -> (B, d)."""
        weights = self._scores(e, gather(query, row))
        if self.softmax:
            scores = torch.full(mask.shape, -torch.inf, dtype=e.dtype, device=e.device).masked_scatter(mask, weights)
            # A row without behaviours is all -inf: its softmax is nan and has to be kept out, also of the gradient.
            scores = scores.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
            weights = torch.softmax(scores, dim=1)[mask]
        return torch.zeros_like(query).index_add(0, row, weights[:, None] * e)

    def _scores(self, e: Tensor, v: Tensor) -> Tensor:
        """The MLP's output (S) for pairs (S, d), (S, d).

        The first layer is linear in (e, v, e - v, e * v), so its weights are folded to those of (e, v, e * v).
        """
        first = self.score[0]
        of_e, of_v, of_difference, of_product = first.weight.chunk(4, dim=1)
        folded = torch.cat([of_e + of_difference, of_v - of_difference, of_product], dim=1)
        hidden = nn.functional.linear(torch.cat([e, v, e * v], dim=1), folded, first.bias)
        return self.score[1:](hidden).squeeze(1)
