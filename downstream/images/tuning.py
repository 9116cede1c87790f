"""Which raw features are learned with the click: none, the table's vectors, or the encoder that made them."""

from __future__ import annotations

from downstream.images.encoder import EncodedPictures
from downstream.images.features import Features, FrozenTable, TunedTable
from downstream.images.joined import ItemImages
from downstream.settings import ImageSettings


def raw_features(images: ItemImages, settings: ImageSettings) -> Features:
    """The raw features of items, learned as ``settings.tune`` says."""
    if settings.tune == "encoder":
        return EncodedPictures(images, settings.weights)
    return TunedTable(images) if settings.tune == "table" else FrozenTable(images)
