"""A slow copy of the encoder and the keys it made in earlier steps: further negatives (MoCo, arXiv 1911.05722)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MomentumQueue(nn.Module):
    """Keys of earlier steps' pictures, made by a moving average of the encoder.

    The slow encoder is used in evaluation mode, so that a key depends on its picture alone (ours).

    Parameters
    ----------
    encoder : nn.Module
        Pictures (N, 3, S, S) to embeddings (N, D); ``encoder.dimensions`` is D.
    length : int
        Keys that are kept.
    momentum : float
        Share of itself that the slow encoder keeps at each step.

    Attributes
    ----------
    key : float tensor (length, D)
        Unit keys, the newest first.
    item : long tensor (length,)
        The item of each key; -1 where the queue is not filled yet.
    """

    def __init__(self, encoder: nn.Module, length: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.slow = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.register_buffer("key", torch.zeros(length, encoder.dimensions))
        self.register_buffer("item", torch.full((length,), -1))

    def train(self, mode: bool = True) -> MomentumQueue:
        super().train(mode)
        self.slow.eval()
        return self

    @torch.no_grad()
    def encode(self, images: Tensor, slots: Tensor, wanted: Tensor, chunk: int = 256) -> Tensor:
        """Unit keys (n, D) of the pictures in the wanted slots, each encoded once; zeros elsewhere.

        Parameters
        ----------
        images : uint8 tensor (N, 3, S, S)
            The batch's distinct pictures.
        slots : long tensor (n,)
            Indices into them.
        wanted : bool tensor (n,)
        """
        keys = torch.zeros(len(slots), self.key.shape[1], device=slots.device)
        if wanted.any():
            used, place = slots[wanted].unique(return_inverse=True)
            encoded = torch.cat([self.slow(images[part]).float() for part in used.split(chunk)])
            keys[wanted] = F.normalize(encoded, dim=-1)[place]
        return keys

    @torch.no_grad()
    def remember(self, key: Tensor, item: Tensor) -> None:
        """Keys (n, D) of all processes and their items (n,), the newest first; the oldest fall off the end."""
        length = len(self.key)
        self.key.copy_(torch.cat([key, self.key])[:length])
        self.item.copy_(torch.cat([item, self.item])[:length])

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Move the slow encoder towards the encoder."""
        fast = encoder.state_dict()
        for name, value in self.slow.state_dict().items():
            if value.is_floating_point():
                value.lerp_(fast[name], 1 - self.momentum)
            else:
                value.copy_(fast[name])
