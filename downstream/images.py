"""An embedding table joined to a dataset's items, and the trainable embedding model over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.cli import UserError
from data_tools.table import EmbeddingTable
from downstream.data import CTRData
from downstream.layers import prelu_mlp


@dataclass(frozen=True)
class ItemImages:
    """An embedding table joined to a dataset's items.

    Attributes
    ----------
    vectors : float32 (items, D), zeros where the table lacks the item; never shown to a model as they are
    found : bool (items,)
    seen : bool (items,), shown in training; whatever is fitted to the vectors is fitted on these
    """

    vectors: np.ndarray
    found: np.ndarray
    seen: np.ndarray


def join_table(table: EmbeddingTable, data: CTRData) -> ItemImages:
    """The table's vectors in the order of the dataset's items.

    Raises
    ------
    UserError
        If the table has none of the items that training shows.
    """
    vectors, found = table.lookup(data.item_ids)
    if not (found & data.seen).any():
        raise UserError(
            f"the table's ids (such as {table.ids[:3]}) are none of the item ids shown in training "
            f"(such as {data.item_ids[:3]}); it was made from another dataset"
        )
    return ItemImages(vectors, found, data.seen)


class ImageEmbedder(nn.Module):
    """DICM's embedding model: from a raw feature an item to ``size`` numbers, called as ``embedder(row)``.

    D-256-64-12 with PReLU as in arXiv 1711.06505 (there D = 4096). Ours: raw features are centred and brought to unit
    variance by one factor, both from training-time items, so that tables of any scale train alike; items without a
    vector get a learned one after the embedding model.

    Parameters
    ----------
    images : the raw features
    hidden : widths between D and ``size``, each cut to 4 D
    size : of the embeddings
    """

    def __init__(self, images: ItemImages, hidden: Sequence[int], size: int) -> None:
        super().__init__()
        fitted = images.vectors[images.found & images.seen]
        centre = fitted.mean(axis=0)
        scale = max(float((fitted - centre).std()), 1e-6)
        # The table stays on disk: its vectors are no part of the model's own weights.
        self.register_buffer("raw", torch.from_numpy((images.vectors - centre) / scale), persistent=False)
        self.register_buffer("found", torch.from_numpy(images.found), persistent=False)
        raw_size = images.vectors.shape[1]
        self.layers = prelu_mlp([raw_size, *(min(width, 4 * raw_size) for width in hidden)], size)
        self.no_image = nn.Parameter(torch.zeros(size))

    def forward(self, row: Tensor) -> Tensor:
        """Embeddings (M, size) of the distinct items at rows (M,) of ``items.parquet``."""
        return torch.where(self.found[row, None], self.layers(self.raw[row]), self.no_image)
