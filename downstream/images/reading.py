"""A source of raw features, table or feature store, read and joined to a dataset's items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data_tools.common.scratch import pieces, scratch_array
from data_tools.common.storage import exists
from data_tools.tables.here import here
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.ams.feature_store import FeatureStore, open_store
from downstream.ams.joining import ServedImages, join_store
from downstream.data.ctr_data import CTRData
from downstream.images.joined import ItemImages, join_table
from downstream.settings import ServerSettings


def read_features(path: str | Path) -> EmbeddingTable | FeatureStore:
    """Read a feature store, where ``path`` is one, else an embedding table."""
    return open_store(here(path)) if exists(Path(path) / "store.json") else read_table(path)


def whole_table(store: FeatureStore) -> EmbeddingTable:
    """All of a store as a table."""
    features, partition = scratch_array((store.count, math.prod(store.shape))), store.partition()
    for piece in pieces(store.count):
        rows = np.arange(piece.start, piece.stop)
        features[piece] = partition.read(rows).reshape(len(rows), -1)
    return EmbeddingTable(store.ids().to_list(), features)


def join(source: EmbeddingTable | FeatureStore, data: CTRData, server: ServerSettings) -> ItemImages | ServedImages:
    """Features joined to a dataset's items: in the memory of each process, or served as the settings say.

    Raises
    ------
    UserError
        See :func:`downstream.images.joined.join_table` and :func:`downstream.ams.joining.join_store`.
    """
    if server.strategy != "local":
        return join_store(source, data, server)
    return join_table(whole_table(source) if isinstance(source, FeatureStore) else source, data)
