"""A feature store in the place of an embedding table: joined to a dataset's items, and trained over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from data_tools.common.errors import UserError
from data_tools.tables.table import EmbeddingTable
from downstream.ams.averaging import exclude_from_ddp
from downstream.ams.exchange import WIRES, Exchange
from downstream.ams.feature_store import FeatureStore
from downstream.ams.ids import shard_tables
from downstream.ams.server import ImageServer
from downstream.data.ctr_data import CTRData
from downstream.layers.blocks import embedding_model
from downstream.settings import ImageSettings, ServerSettings


@dataclass(frozen=True)
class ServedImages:
    """A feature store joined to a dataset's items, as ``downstream.images.joined.ItemImages`` is a table joined.

    Attributes
    ----------
    store : FeatureStore
        The raw features.
    rows : numpy.ndarray
        int64 (items,), the store's row of each item, -1 where it lacks the item.
    warm : numpy.ndarray
        bool (items,), shown in training; centre and variance are those of these items.
    shown : numpy.ndarray
        int64 (items,), how often each item is shown or clicked in training.
    settings : ServerSettings
        Of the server.
    """

    store: FeatureStore
    rows: np.ndarray
    warm: np.ndarray
    shown: np.ndarray
    settings: ServerSettings

    @property
    def found(self) -> np.ndarray:
        """Bool (items,), the store has the item."""
        return self.rows >= 0

    def embedder(self, image: ImageSettings) -> ImageServer:
        """The trainable embedding model over the store; over a table it is ``downstream.images.embedder``'s."""
        layers = embedding_model(int(np.prod(self.store.shape)), image.hidden, image.size)
        shown = np.zeros(self.store.count)
        shown[self.rows[self.found]] = self.shown[self.found]
        fitted = self.rows[self.found & self.warm]
        return ImageServer(
            self.store, self.rows, layers, size=image.size, settings=self.settings, fitted=fitted, shown=shown
        )


def join_store(store: FeatureStore | EmbeddingTable, data: CTRData, server: ServerSettings) -> ServedImages:
    """A store joined to a dataset's items.

    Raises
    ------
    UserError
        If there is a table instead of a store, or the store has no item that is shown in training.
    """
    if isinstance(store, EmbeddingTable):
        raise UserError(
            f"server.strategy {server.strategy!r} needs a feature store; make one with "
            "python -m downstream.store --table TABLE --out STORE, and give it as the table"
        )
    rows = store.rows_of(data.item_ids)
    if not (data.warm & (rows >= 0)).any():
        raise UserError(f"{store.folder} has no item that is shown in training (ids such as {data.item_ids[:3]})")
    train = data.rows["train"]
    shown = np.bincount(data.item[train], minlength=len(rows)) + np.bincount(data.clicked, minlength=len(rows))
    return ServedImages(store, rows, data.warm, shown, server)


def distribute(model: nn.Module, wrapped: nn.Module, server: ServerSettings) -> None:
    """Split the ID tables if ``server`` says so, and settle who averages which gradients.

    To be called before DDP wraps ``wrapped``, which holds ``model``.
    """
    if server.shard_ids and hasattr(model, "ids"):  # a form's own stage has none
        shard_tables(model.ids, Exchange(WIRES[server.wire], server.timeout))
    exclude_from_ddp(wrapped)
