"""A step of DICM in miniature, with as many images and IDs as are asked for: what the figures are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from downstream.ams.exchange import Exchange
from downstream.ams.feature_store import FeatureStore, append, create_store
from downstream.ams.ids import shard_tables
from downstream.ams.server import ImageServer
from downstream.layers.blocks import id_embedding, mlp
from downstream.settings import ServerSettings

CHUNK = 4096  # features made at a time


@dataclass(frozen=True)
class Workload:
    """The default is an eighth of what one of the paper's 20 nodes has in a batch (arXiv 1711.06505: 60,000 rows,
    320 thousand distinct images, 1.4 million ids, 4096 -> 12).

    Attributes
    ----------
    items : int
        Images in the store.
    width : int
        Size of a raw feature.
    parts : int
        Of the store.
    rows : int
        Samples of a process in a step.
    images : int
        Distinct images of a process in a step.
    codes : int
        Distinct ids of a process in a step.
    vocabulary : int
        Number of ids in all.
    zipf : float
        Exponent of the popularity of images and ids: the k-th is shown in proportion to k^-zipf.
    hidden : tuple of int
        Widths of the embedding model.
    size : int
        Size of an embedding.
    """

    items: int = 12000
    width: int = 4096
    parts: int = 16
    rows: int = 375
    images: int = 2000
    codes: int = 8750
    vocabulary: int = 100000
    zipf: float = 0.8
    hidden: tuple[int, ...] = (256, 64)
    size: int = 12

    def make_store(self, folder: Path) -> FeatureStore:
        """A store of normal deviates."""
        random = np.random.default_rng(0)
        chunks = (
            (list(range(start, end)), random.standard_normal((end - start, self.width), dtype=np.float32))
            for start in range(0, self.items, CHUNK)
            for end in [min(start + CHUNK, self.items)]
        )
        return append(create_store(folder, (self.width,), np.float32, self.parts), chunks)

    def batches(self, rank: int, seed: int = 0) -> Iterator[dict[str, Tensor]]:
        """Endless batches of one process: its samples mention ``images`` distinct images and ``codes`` distinct ids."""
        random = np.random.default_rng([seed, rank])
        while True:
            yield {
                "row": torch.from_numpy(self._draw(random, self.items, self.images)),
                "code": torch.from_numpy(self._draw(random, self.vocabulary, self.codes)),
                "image": torch.from_numpy(random.integers(self.images, size=(self.rows, 2 * self.images // self.rows))),
                "id": torch.from_numpy(random.integers(self.codes, size=(self.rows, 2 * self.codes // self.rows))),
                "click": torch.from_numpy(random.integers(2, size=self.rows).astype(np.float32)),
            }

    def _draw(self, random: np.random.Generator, among: int, count: int) -> np.ndarray:
        """Distinct numbers (count,) below ``among``, small ones more often (exponential keys: Efraimidis, Spirakis)."""
        weight = np.arange(1, among + 1) ** -self.zipf
        return np.sort(np.argpartition(random.exponential(size=among) / weight, count - 1)[:count])


class Miniature(nn.Module):
    """Sums of the embeddings of a sample's images and of its ids, through an MLP; its forward is the loss."""

    def __init__(self, work: Workload, server: ImageServer, shards: Exchange | None = None) -> None:
        super().__init__()
        self.server = server
        self.ids = nn.ModuleDict({"id": id_embedding(work.vocabulary, work.size)})
        if shards:
            shard_tables(self.ids, shards)
        self.mlp = mlp([2 * work.size, 32], 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        images, ids = self.server(batch["row"]), self.ids["id"](batch["code"])
        bag = nn.functional.embedding_bag
        features = torch.cat([bag(batch["image"], images, mode="mean"), bag(batch["id"], ids, mode="mean")], dim=1)
        return nn.functional.binary_cross_entropy_with_logits(self.mlp(features).squeeze(-1), batch["click"])


def build(
    work: Workload, store: FeatureStore, settings: ServerSettings, row_of_item: np.ndarray | None = None
) -> Miniature:
    """The same weights in every process and for every strategy."""
    torch.manual_seed(0)
    rows = np.arange(store.count) if row_of_item is None else row_of_item
    there = rows >= 0
    shown = np.zeros(store.count)
    shown[rows[there]] = (np.flatnonzero(there) + 1.0) ** -work.zipf
    layers = mlp([work.width, *work.hidden], work.size)
    server = ImageServer(store, rows, layers, size=work.size, settings=settings, shown=shown)
    return Miniature(work, server, Exchange(server.exchange.wire, settings.timeout) if settings.shard_ids else None)
