"""User intention reconstruction (COURIER, arXiv 2306.05001): a target rebuilt from the user's clicked images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def reconstruct(target: Tensor, history: Tensor, present: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Projection-free cross attention whose query is the target: r_j = sum_k softmax_k(p_j . h_k / s) h_k.

    COURIER's formula without learned projections (arXiv 2306.05001). Embeddings are unit vectors here, so that
    s is the temperature of a softmax over cosines.

    Parameters
    ----------
    target : float tensor (B, T, D)
        Unit vectors p.
    history : float tensor (B, H, D)
        Unit vectors h.
    present : bool tensor (B, H)
        False where a history slot is padding.
    temperature : float
        s.

    Returns
    -------
    reconstructed : float tensor (B, T, D)
        Zeros for a row whose history is empty.
    attention : float tensor (B, T, H)
        Rows sum to 1, or to 0 for an empty history.
    """
    scores = torch.einsum("btd,bhd->bth", target, history) / temperature
    scores = scores.masked_fill(~present[:, None, :], float("-inf"))
    # A row of -inf alone would give NaN, in the gradient too: such rows get equal scores, then weight 0.
    scores = torch.where(present.any(1)[:, None, None], scores, torch.zeros_like(scores))
    attention = scores.softmax(-1) * present[:, None, :]
    return torch.einsum("bth,bhd->btd", attention, history), attention


def history_mean(history: Tensor, present: Tensor, targets: int) -> Tensor:
    """Mean of the history whatever the target: COURIER's ablation without reconstruction.

    Parameters
    ----------
    history : float tensor (B, H, D)
    present : bool tensor (B, H)
    targets : int
        T, how many targets a row has.

    Returns
    -------
    float tensor (B, T, D); zeros for a row whose history is empty
    """
    weight = present[..., None].to(history.dtype)
    mean = (history * weight).sum(1) / weight.sum(1).clamp(min=1)
    return mean[:, None].expand(-1, targets, -1)


class MultiHead(nn.Module):
    """Cross attention with learned projections, whose query is the target (COURIER's released code: four heads).

    For head i: softmax_k(W_q p . W_k h_k / sqrt(D / heads)) W_v h_k; the heads joined by one more projection (the usual
    multi-head attention, arXiv 1706.03762). There are no biases, so that an empty history gives zeros.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(size, size, bias=False) for _ in range(4))

    def forward(self, target: Tensor, history: Tensor, present: Tensor) -> Tensor:
        """Shapes as in :func:`reconstruct`; returns (B, T, D)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, target), (self.key, history), (self.value, history))
        )
        known = present.any(1)[:, None, None, None]
        mask = present[:, None, None, :] | ~known  # a row without any key would give NaN
        mixed = F.scaled_dot_product_attention(query, key, value, mask) * known
        return self.out(mixed.transpose(1, 2).flatten(2))
