"""User intention reconstruction (COURIER, arXiv 2306.05001): a target rebuilt from the user's clicked images."""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruct(target: Tensor, history: Tensor, present: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Projection-free cross attention whose query is the target: r_j = sum_k softmax_k(p_j . h_k / s) h_k.

    COURIER's formula without learned projections (arXiv 2306.05001). Embeddings are unit vectors here, so that
    s is the temperature of a softmax over cosines.

    Parameters
    ----------
    target : float tensor (B, T, D), unit vectors p
    history : float tensor (B, H, D), unit vectors h
    present : bool tensor (B, H), false where a history slot is padding
    temperature : s

    Returns
    -------
    reconstructed : float tensor (B, T, D); zeros for a row whose history is empty
    attention : float tensor (B, T, H); rows sum to 1, or to 0 for an empty history
    """
    scores = torch.einsum("btd,bhd->bth", target, history) / temperature
    scores = scores.masked_fill(~present[:, None, :], float("-inf"))
    # A row of -inf alone would give NaN, in the gradient too: such rows get equal scores, then weight 0.
    scores = torch.where(present.any(1)[:, None, None], scores, torch.zeros_like(scores))
    attention = scores.softmax(-1) * present[:, None, :]
    return torch.einsum("bth,bhd->btd", attention, history), attention
