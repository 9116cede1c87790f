"""Raw features of items: the embedding table, frozen or learned with the click."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.common.scratch import mean_square, rows_of
from downstream.images.joined import ItemImages
from downstream.layers.blocks import gather


class Features(nn.Module):
    """Raw features of items, called as ``features(row)``: vectors (M, ``size``) of distinct items at rows (M,).

    Attributes
    ----------
    size : int
        D.
    found : Tensor
        bool (items,), a buffer: whether an item has a vector. Vectors of other items mean nothing.
    """

    def __init__(self, images: ItemImages) -> None:
        super().__init__()
        self.size = images.vectors.shape[1]
        self.register_buffer("found", torch.from_numpy(images.found), persistent=False)


class FrozenTable(Features):
    """The table as it is."""

    def __init__(self, images: ItemImages) -> None:
        super().__init__(images)
        # The table stays on disk: its vectors do not belong to the model's weights.
        self.on_disk = images.vectors
        self.register_buffer("vectors", torch.from_numpy(images.vectors), persistent=False)

    def forward(self, row: Tensor) -> Tensor:
        return torch.from_numpy(rows_of(self.on_disk, row.numpy())) if row.is_cpu else self.vectors[row]


class TunedTable(Features):
    """A table that starts as the one given and is learned with the click.

    Vectors are kept in units of the table's root mean square, so that one learning rate suits tables of any scale.
    Those of items that no training impression mentions get no gradient and keep every bit.
    """

    def __init__(self, images: ItemImages) -> None:
        super().__init__(images)
        self.scale = max(float(np.sqrt(mean_square(images.fitted))), 1e-12)
        self.weight = nn.Parameter(torch.from_numpy(images.vectors / np.float32(self.scale)))

    def forward(self, row: Tensor) -> Tensor:
        return gather(self.weight, row) * self.scale
