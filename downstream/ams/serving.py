"""Embeddings for serving: a table computed ahead, and the embedding model itself for items that the table lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.common.cli import progress_bar
from data_tools.common.errors import UserError
from data_tools.common.files import whole_folder, write_json
from data_tools.common.tensors import read_tensors
from data_tools.tables.table import EmbeddingTable, describe, write_part
from downstream.ams.feature_store import FeatureStore

CHUNK = 1 << 24  # bytes of features embedded at a time


@dataclass(frozen=True)
class EmbeddingModel:
    """The trained embedding model of an image server, by itself.

    Attributes
    ----------
    layers : nn.Module
        From centred and scaled features to embeddings.
    centre, scale : Tensor
        Of the features it was trained on.
    no_image : numpy.ndarray
        float32 (size,), the embedding of an item without an image.
    """

    layers: nn.Module
    centre: Tensor
    scale: Tensor
    no_image: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Embeddings float32 (n, size) of raw features (n, D)."""
        with torch.inference_mode():
            return self.layers((torch.from_numpy(features).float() - self.centre) / self.scale).numpy()


def read_model(run: str | Path) -> EmbeddingModel:
    """The embedding model of a run.

    Raises
    ------
    UserError
        If there is no run, or it was trained without an image server.
    """
    path = Path(run) / "model.safetensors"
    if not path.exists():
        raise UserError(f"{run} is not a run of downstream.train: it has no model.safetensors")
    state = read_tensors(path)
    prefix = next((name.removesuffix("centre") for name in state if name.endswith("embed.centre")), None)
    if prefix is None:
        raise UserError(f"{run} was not trained with an image server (server.strategy ams, server or worker)")
    own = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    weights = {name.removeprefix("layers."): weight for name, weight in own.items() if name.startswith("layers.")}
    parts: list[nn.Module] = []
    while (weight := weights.get(f"{len(parts)}.weight")) is not None:
        parts.append(nn.Linear(*reversed(weight.shape)) if weight.ndim == 2 else nn.PReLU(len(weight)))
    layers = nn.Sequential(*parts)
    layers.load_state_dict(weights)
    return EmbeddingModel(layers.eval(), own["centre"], own["scale"], own["no_image"].numpy())


def precompute(model: EmbeddingModel, store: FeatureStore, out: str | Path, info: dict[str, Any]) -> None:
    """Embed every item of a store, part by part, into an embedding table at ``out``, which must not exist."""
    ids, partition = store.ids(), store.partition()
    with whole_folder(out) as folder, progress_bar() as progress:
        step = max(CHUNK // store.item_bytes, 1)
        for number, start in enumerate(progress.track(range(0, store.count, step), description="embedding")):
            rows = np.arange(start, min(start + step, store.count))
            vectors = model(partition.read(rows))
            write_part(folder / f"part-{number:05d}.parquet", ids[rows].to_list(), vectors)
        described = describe(store.count, len(model.no_image), "float32", folder=folder)
        write_json(folder / "table.json", {**described, **info})


class Serving:
    """Embeddings of items by id: from the table, or through the model for items that it lacks.

    Parameters
    ----------
    table : EmbeddingTable
        Made by :func:`precompute`.
    model : EmbeddingModel
        Made the table.
    """

    def __init__(self, table: EmbeddingTable, model: EmbeddingModel) -> None:
        self.vectors, self.model = table.vectors, model
        self.row_of = {str(item): row for row, item in enumerate(table.ids)}

    def __call__(self, item_ids: Sequence[Any], store: FeatureStore | None = None) -> np.ndarray:
        """Embeddings float32 (n, size).

        Items that the table lacks are embedded now, from ``store``, where their features may have been appended since;
        an item without features gets the learned embedding of "no image".
        """
        rows = np.array([self.row_of.get(str(item), -1) for item in item_ids], dtype=np.int64)
        found = np.where((rows >= 0)[:, None], self.vectors[rows], self.model.no_image).astype(np.float32)
        lacking = np.flatnonzero(rows < 0)
        if store is not None and len(lacking):
            stored = store.rows_of([item_ids[place] for place in lacking])
            lacking, stored = lacking[stored >= 0], stored[stored >= 0]
            found[lacking] = self.model(store.read(stored))
        return found
