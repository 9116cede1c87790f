"""The image server: an embedding model that trains over features which no process has all of."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_tools.common.errors import UserError
from downstream.ams.exchange import WIRES, Exchange
from downstream.ams.feature_store import FeatureStore, Partition
from downstream.ams.heartbeat import all_gather_text
from downstream.ams.strategies import STRATEGIES
from downstream.layers.blocks import gather
from downstream.settings import ServerSettings

CHUNK = 1 << 24  # bytes of features read at a time where all are passed over


class ImageServer(nn.Module):
    """Embeddings of items whose raw features are in a store that the processes share (arXiv 1711.06505).

    Every process constructs it and calls it in every step, with the items that its part of the batch shows; the replica
    of the embedding model, ``layers``, keeps the same weights everywhere, because its gradient is averaged here and
    not by DDP (:func:`downstream.ams.averaging.exclude_from_ddp`). As in ``ImageEmbedder``, raw
    features are centred and brought to unit variance, and items that the store lacks get a learned vector.

    Parameters
    ----------
    store : FeatureStore
        The raw features.
    row_of_item : numpy.ndarray
        int64 (items,), the store's row of each item, -1 where it lacks the item.
    layers : nn.Module
        From raw features, float32 (n, \\*store.shape), to embeddings (n, size); its weights have to be the same in all
        processes.
    size : int
        Of the embeddings.
    settings : ServerSettings
        Strategy, wire, hot images, timeout, verification.
    fitted : numpy.ndarray
        Rows of the store that centre and variance are computed from; by default all.
    shown : numpy.ndarray
        (store.count,), how often each row of the store is shown, which decides what is hot; by default equally often.

    Raises
    ------
    UserError
        In all processes, if feature files of any of them are missing, too short or changed.
    """

    def __init__(
        self,
        store: FeatureStore,
        row_of_item: np.ndarray,
        layers: nn.Module,
        *,
        size: int,
        settings: ServerSettings,
        fitted: np.ndarray | None = None,
        shown: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.store = store
        self.strategy = STRATEGIES[settings.strategy]
        self.exchange = Exchange(WIRES[settings.wire], settings.timeout)
        self.layers = layers
        self.no_image = nn.Parameter(torch.zeros(size))
        self.partition = self._open(settings)
        self.register_buffer("row_of_item", torch.tensor(row_of_item), persistent=False)
        centre, scale = self._moments(np.arange(store.count) if fitted is None else fitted)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self._keep_hot(np.zeros(store.count) if shown is None else shown, settings.hot)

    def _open(self, settings: ServerSettings) -> Partition:
        processes = 1 if settings.strategy == "worker" else self.exchange.processes
        fault = ""
        try:
            partition = self.store.partition(self.exchange.rank % processes, processes, settings.verify)
        except UserError as error:
            fault = str(error)
        faults = [f"process {rank}: {said}" for rank, said in enumerate(all_gather_text("store", fault)) if said]
        if faults:
            raise UserError("; ".join(faults))
        return partition

    def owner(self, rows: Tensor) -> Tensor:
        """The process that owns each of the store's rows."""
        return rows % self.store.parts % self.exchange.processes

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, on the device that the collectives use."""
        if self.exchange.processes == 1:
            return values
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = values.to(device)
        dist.all_reduce(total, group=self.exchange.group)
        return total.cpu()

    def _moments(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean of the features, float32 (\\*shape), and standard deviation of all numbers about it, float32 ()."""
        own = rows[self.owner(torch.from_numpy(rows)).numpy() == self.exchange.rank]
        total, squares = torch.zeros(self.store.shape, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        step = max(CHUNK // self.store.item_bytes, 1)
        for start in range(0, len(own), step):
            block = torch.from_numpy(self.partition.read(own[start : start + step])).double()
            total += block.sum(0)
            squares += block.square().sum()
        count = max(len(rows), 1)
        mean = self._sum(total) / count
        variance = self._sum(squares) / count / max(mean.numel(), 1) - mean.square().mean()
        return mean.float(), variance.clamp(min=1e-12).sqrt().float()

    def _keep_hot(self, shown: np.ndarray, count: int) -> None:
        """Give every process a copy of the ``count`` most shown images."""
        rows = np.sort(np.argsort(-shown, kind="stable")[:count])
        held = self.owner(torch.from_numpy(rows)).numpy() == self.exchange.rank
        features = np.zeros((len(rows), *self.store.shape), dtype=self.store.dtype)
        features[held] = self.partition.read(rows[held])
        self.register_buffer("hot_rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("hot", self._sum(torch.from_numpy(features)), persistent=False)

    def split_hot(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in rows (n,) of the hot images, and of the others."""
        hot = torch.isin(rows, self.hot_rows)
        return hot.nonzero().squeeze(1), (~hot).nonzero().squeeze(1)

    def read(self, rows: Tensor) -> Tensor:
        """Raw features (n, \\*shape) of rows that this process holds, on the device of ``rows``."""
        return torch.from_numpy(self.partition.read(rows.cpu().numpy())).to(rows.device)

    def read_hot(self, rows: Tensor) -> Tensor:
        """Raw features (n, \\*shape) of hot rows, from this process's copies."""
        return self.hot[torch.searchsorted(self.hot_rows, rows)]

    def embed(self, raw: Tensor) -> Tensor:
        """Embeddings (n, size) of raw features by the replica, whose gradient is averaged over the processes."""
        self.exchange.traffic.work["embedded"] += len(raw)
        names, weights = zip(*self.layers.named_parameters(), strict=True)
        shared = self.exchange.replicate(list(weights)) if torch.is_grad_enabled() else weights
        standard = (raw.float() - self.centre) / self.scale
        return torch.func.functional_call(self.layers, dict(zip(names, shared, strict=True)), (standard,))

    def forward(self, item: Tensor) -> Tensor:
        """Embeddings (M, size) of items (M,); every process has to call it equally often, even without items."""
        rows, place = self.row_of_item[item].unique(return_inverse=True)
        known = rows >= 0
        served = self.strategy(self, rows[known])
        # The learned vector comes before what was served: both have a gradient in every step.
        table = torch.cat([self.no_image[None], served])
        position = torch.where(known, known.cumsum(0), 0)
        return gather(table, position[place])

    def stored_bytes(self) -> int:
        """Bytes of features that this process keeps, copies of hot images included."""
        return self.partition.stored_bytes + self.hot.nbytes
