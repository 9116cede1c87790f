"""An embedding table joined to a dataset's items, and the trainable embedding model over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.common.cli import UserError
from data_tools.tables.table import EmbeddingTable, centred
from downstream.ams.feature_store import FeatureStore
from downstream.ams.joining import ServedImages, join_store, whole_table
from downstream.ams.settings import ServerSettings
from downstream.data.ctr_data import CTRData
from downstream.images.features import Features
from downstream.images.tuning import TUNES
from downstream.layers.blocks import prelu_mlp

if TYPE_CHECKING:
    from downstream.forms import ImageSettings


@dataclass(frozen=True)
class ItemImages:
    """An embedding table joined to a dataset's items.

    Attributes
    ----------
    vectors : float32 (items, D), zeros where the table lacks the item; never shown to a model as they are
    found : bool (items,)
    seen : bool (items,), shown in training; whatever is fitted to the vectors is fitted on these
    info : what the table says of how it was made (see ``data_tools.tables.table``)
    folder, pictures : of the dataset, and the file in it of each item's picture, None where it has none
    """

    vectors: np.ndarray
    found: np.ndarray
    seen: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    pictures: list[str | None] = field(default_factory=list)

    @property
    def fitted(self) -> np.ndarray:
        """Vectors of the training-time items (n, D): the only ones that anything may be fitted to."""
        return self.vectors[self.found & self.seen]

    def centred(self) -> ItemImages:
        """The same, with vectors of length 1 less their mean over the training-time items."""
        vectors = centred(self.vectors, self.found & self.seen)
        return replace(self, vectors=np.where(self.found[:, None], vectors, np.float32(0)))


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
    pictures = data.dataset.items["image"].to_list()
    return ItemImages(vectors, found, data.seen, table.info, data.dataset.folder, pictures)


class ImageEmbedder(nn.Module):
    """DICM's embedding model: from a raw feature an item to ``size`` numbers, called as ``embedder(row)``.

    D-256-64-12 with PReLU as in arXiv 1711.06505 (there D = 4096). Ours: raw features are centred and brought to unit
    variance by one factor, both from training-time items, so that tables of any scale train alike; items without a
    vector get a learned one after the embedding model.

    Parameters
    ----------
    images : the raw features as they start
    features : gives the raw features
    hidden : widths between D and ``size``, each cut to 4 D
    size : of the embeddings
    """

    def __init__(self, images: ItemImages, features: Features, hidden: Sequence[int], size: int) -> None:
        super().__init__()
        self.features = features
        centre = images.fitted.mean(axis=0)
        # Vectors that are all one have no spread but rounding's.
        self.scale = max(float((images.fitted - centre).std()), 1e-6 * float(np.abs(centre).max()), 1e-12)
        self.register_buffer("centre", torch.from_numpy(centre), persistent=False)
        raw_size = self.features.size
        self.layers = prelu_mlp([raw_size, *(min(width, 4 * raw_size) for width in hidden)], size)
        self.no_image = nn.Parameter(torch.zeros(size))

    def forward(self, row: Tensor) -> Tensor:
        """Embeddings (M, size) of the distinct items at rows (M,) of ``items.parquet``."""
        raw = (self.features(row) - self.centre) / self.scale
        return torch.where(self.features.found[row, None], self.layers(raw), self.no_image)


def join(
    source: EmbeddingTable | FeatureStore, data: CTRData, form: str, server: ServerSettings
) -> ItemImages | ServedImages:
    """Features joined to a dataset's items: in the memory of each process, or served as the settings say.

    Raises
    ------
    UserError
        See :func:`join_table` and :func:`downstream.ams.joining.join_store`.
    """
    if server.strategy != "local":
        return join_store(source, data, form, server)
    return join_table(whole_table(source) if isinstance(source, FeatureStore) else source, data)


def make_embedder(images: ItemImages | ServedImages, settings: ImageSettings) -> nn.Module:
    """The trainable embedding model over a table or its encoder, learned or not, or over what a server has."""
    if isinstance(images, ServedImages):
        return images.embedder(settings)
    return ImageEmbedder(images, TUNES[settings.tune](images, settings), settings.hidden, settings.size)
