"""Two small pieces that every model uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def prelu_mlp(widths: Sequence[int], out: int) -> nn.Sequential:
    """Linear and PReLU through ``widths`` (the input's first), then a linear layer to ``out``."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.PReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out))


def gather(vectors: Tensor, position: Tensor) -> Tensor:
    """Rows of ``vectors`` (M, d) at ``position`` (any shape): (\\*shape, d).

    As an embedding look-up, whose backward is much faster than that of plain indexing where rows repeat.
    """
    return nn.functional.embedding(position, vectors)
