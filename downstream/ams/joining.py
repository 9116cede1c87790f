"""A feature store in the place of an embedding table: read, joined to a dataset's items, and trained over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from data_tools.common.cli import UserError
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.ams.averaging import leave_to_the_server
from downstream.ams.exchange import Exchange
from downstream.ams.feature_store import FeatureStore, open_store
from downstream.ams.ids import shard_tables
from downstream.ams.server import ImageServer
from downstream.ams.settings import WIRES, ServerSettings
from downstream.data.ctr_data import CTRData
from downstream.layers.blocks import prelu_mlp

if TYPE_CHECKING:
    from downstream.forms import ImageSettings


@dataclass(frozen=True)
class ServedImages:
    """A feature store joined to a dataset's items, as ``downstream.images.joined.ItemImages`` is a table joined.

    Attributes
    ----------
    store : the raw features
    rows : int64 (items,), the store's row of each item, -1 where it lacks the item
    seen : bool (items,), shown in training; centre and variance are of these
    shown : int64 (items,), how often each item is shown or clicked in training
    settings : of the server
    """

    store: FeatureStore
    rows: np.ndarray
    seen: np.ndarray
    shown: np.ndarray
    settings: ServerSettings

    @property
    def found(self) -> np.ndarray:
        """Bool (items,), the store has the item."""
        return self.rows >= 0

    def embedder(self, image: ImageSettings) -> ImageServer:
        """The trainable embedding model over the store, with the widths of ``downstream.images.joined.ImageEmbedder``.

        Raises
        ------
        UserError
            If the settings ask for what no server does: learned raw features.
        """
        if image.tune != "frozen":
            raise UserError(f"image.tune is {image.tune!r}: only frozen features are served; use server.strategy local")
        width = int(np.prod(self.store.shape))
        layers = prelu_mlp([width, *(min(hidden, 4 * width) for hidden in image.hidden)], image.size)
        shown = np.zeros(self.store.count)
        shown[self.rows[self.found]] = self.shown[self.found]
        fitted = self.rows[self.found & self.seen]
        return ImageServer(self.store, self.rows, layers, image.size, self.settings, fitted, shown)


def read_features(path: str | Path) -> EmbeddingTable | FeatureStore:
    """A feature store where there is one at ``path``, else an embedding table."""
    return open_store(path) if (Path(path) / "store.json").exists() else read_table(path)


def whole_table(store: FeatureStore) -> EmbeddingTable:
    """All of a store in memory, for whatever knows no server."""
    features = store.partition().read(np.arange(store.count)).astype(np.float32)
    return EmbeddingTable(store.ids().to_list(), features.reshape(store.count, -1))


def join_store(store: FeatureStore | EmbeddingTable, data: CTRData, form: str, server: ServerSettings) -> ServedImages:
    """A store joined to a dataset's items.

    Raises
    ------
    UserError
        If there is a table instead of a store, the form needs the raw features, or the store has none of the items
        that training shows.
    """
    if isinstance(store, EmbeddingTable):
        raise UserError(
            f"server.strategy {server.strategy!r} needs a feature store; make one with "
            "python -m downstream.ams.store --table TABLE --out STORE, and give it as the table"
        )
    if form != "vector":
        raise UserError(f"the form {form!r} needs the raw features; a server gives embeddings, for the form 'vector'")
    rows = store.rows_of(data.item_ids)
    if not (data.seen & (rows >= 0)).any():
        raise UserError(f"{store.folder} has none of the items shown in training (such as {data.item_ids[:3]})")
    train = data.rows["train"]
    shown = np.bincount(data.item[train], minlength=len(rows)) + np.bincount(data.clicked, minlength=len(rows))
    return ServedImages(store, rows, data.seen, shown, server)


def distribute(model: nn.Module, objective: nn.Module, server: ServerSettings) -> None:
    """Before DDP wraps ``objective``, which holds ``model``: split ID tables if asked to, settle who averages what."""
    if server.shard_ids and hasattr(model, "ids"):  # a form's own stage has none
        shard_tables(model.ids, Exchange(WIRES[server.wire], server.timeout))
    leave_to_the_server(objective)
