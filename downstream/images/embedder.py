"""The trainable embedding model over raw features of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.common.scratch import column_means, spread
from downstream.ams.joining import ServedImages
from downstream.images.features import Features
from downstream.images.joined import ItemImages
from downstream.images.tuning import raw_features
from downstream.layers.blocks import embedding_model
from downstream.settings import ImageSettings


class ImageEmbedder(nn.Module):
    """DICM's embedding model: ``size`` numbers for the raw feature of an item, called as ``embedder(row)``.

    D-256-64-12 with PReLU as in arXiv 1711.06505 (there D = 4096). Ours: raw features are centred and scaled to unit
    variance by one factor, both from warm items, so that tables of any scale train alike; items without a vector get a
    learned one after the embedding model.

    Parameters
    ----------
    images : ItemImages
        The raw features as they start.
    features : Features
        Gives the raw features.
    hidden : sequence of int
        Widths between D and ``size``, each cut to 4 D.
    size : int
        Of the embeddings.
    """

    def __init__(self, images: ItemImages, features: Features, hidden: Sequence[int], size: int) -> None:
        super().__init__()
        self.features = features
        fitted = images.fitted
        centre = column_means(fitted)
        # Vectors that are all equal vary by rounding alone.
        self.scale = max(float(spread(fitted, centre)), 1e-6 * float(np.abs(centre).max()), 1e-12)
        self.register_buffer("centre", torch.from_numpy(centre), persistent=False)
        self.layers = embedding_model(self.features.size, hidden, size)
        self.no_image = nn.Parameter(torch.zeros(size))

    def forward(self, row: Tensor) -> Tensor:
        """Embeddings (M, size) of the distinct items at rows (M,) of ``items.parquet``."""
        raw = (self.features(row) - self.centre) / self.scale
        return torch.where(self.features.found[row, None], self.layers(raw), self.no_image)


def make_embedder(images: ItemImages | ServedImages, settings: ImageSettings) -> nn.Module:
    """The trainable embedding model over a table, over its encoder, or over what an image server has."""
    if isinstance(images, ServedImages):
        return images.embedder(settings)
    return ImageEmbedder(images, raw_features(images, settings), settings.hidden, settings.size)
