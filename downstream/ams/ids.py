"""ID embeddings split over the processes by row.

The table is a DTensor of torch.distributed, sharded by rows: torch distributes the rows and
the optimiser's state, and assembles a whole table for a checkpoint. TorchRec would do so too, but its kernels are built
for one version of torch each, and some versions that this project allows have none. The look-up is the
image server's exchange: only distinct codes travel, and only the rows asked for come back. DTensor's own row-wise
look-up (``RowwiseParallel``) gathers all codes in all processes and moves a row of zeros for each that a process does
not own, so its bytes grow with the number of processes (measured in ``tests/benchmarks/ams_ids.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from downstream.ams.exchange import Exchange
from downstream.layers.blocks import gather


class ShardedEmbedding(nn.Module):
    """An ``nn.Embedding`` whose rows are split over the processes, with the same calls, results and gradients.

    Every process has to call it equally often, even without codes.

    Parameters
    ----------
    embedding : nn.Embedding
        The whole table, the same in all processes, on the device of the mesh.
    mesh : DeviceMesh
        All processes, in one dimension.
    exchange : Exchange
        How codes and rows travel.
    """

    def __init__(self, embedding: nn.Embedding, mesh: DeviceMesh, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange
        self.padding = embedding.padding_idx
        self.rows = -(-embedding.num_embeddings // exchange.processes)  # as DTensor deals them out
        self.weight = nn.Parameter(distribute_tensor(embedding.weight.detach(), mesh, [Shard(0)]))

    def forward(self, codes: Tensor) -> Tensor:
        """Embeddings (\\*codes.shape, size) of integer codes of any shape."""
        distinct, place = codes.unique(return_inverse=True)
        asked, route = self.exchange.ask(distinct, distinct // self.rows)
        values = gather(_mean_gradient(self.weight.to_local(), self.exchange.processes), asked % self.rows)
        if self.padding is not None:  # nothing is learned for it
            values = torch.where((asked == self.padding)[:, None], values.detach(), values)
        return gather(self.exchange.answer(values, route, "embeddings"), place)


class _MeanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, processes: int) -> Tensor:
        ctx.processes = processes
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.processes, None


def _mean_gradient(values: Tensor, processes: int) -> Tensor:
    """The values; their gradient, summed over the processes' losses, becomes that of the mean loss (as DDP has it)."""
    return _MeanGradient.apply(values, processes)


def shard_tables(tables: nn.ModuleDict, exchange: Exchange) -> None:
    """Split every ``nn.Embedding`` of a module dict over the processes, in place; nothing in a single process."""
    if exchange.processes == 1:
        return
    device = next(tables.parameters()).device.type
    mesh = init_device_mesh(device, (exchange.processes,))
    for name, table in tables.items():
        tables[name] = ShardedEmbedding(table, mesh, exchange)


def is_sharded(weight: Tensor) -> bool:
    """Whether a process has only a part of it."""
    return isinstance(weight, DTensor)


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its sharded tables put together; a collective, to be called in every process."""
    return {name: value.full_tensor() if is_sharded(value) else value for name, value in state.items()}
