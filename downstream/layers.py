"""Small pieces that models and forms share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from downstream.data import PADDING


def prelu_mlp(widths: Sequence[int], out: int) -> nn.Sequential:
    """Linear and PReLU through ``widths`` (the input's first), then a linear layer to ``out``.

    Weights start as He et al. (arXiv 1502.01852) derive for PReLU. torch's default shrinks the signal in each layer,
    and an image that starts near nothing is not learned in one epoch.
    """
    layers: list[nn.Module] = []
    for narrow, wide in pairwise([*widths, out]):
        linear = nn.Linear(narrow, wide)
        nn.init.kaiming_normal_(linear.weight, a=0.25)  # 0.25 is where PReLU's slope starts
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.PReLU()]
    return nn.Sequential(*layers[:-1])


def gather(vectors: Tensor, position: Tensor) -> Tensor:
    """Rows of ``vectors`` (M, d) at ``position`` (any shape): (\\*shape, d).

    As an embedding look-up, whose backward is much faster than that of plain indexing where rows repeat.
    """
    return nn.functional.embedding(position, vectors)


def id_embedding(codes: int, size: int) -> nn.Embedding:
    """An embedding of integer codes, small at the start, so that codes seen once or never say little."""
    embedding = nn.Embedding(codes, size, padding_idx=PADDING)
    with torch.no_grad():
        embedding.weight.mul_(0.01)
    return embedding
