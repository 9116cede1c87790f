"""The few collective operations a contrastive loss needs, each an identity in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums, over the processes, what each one's loss owes to the local part."""

    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def gather(local: Tensor) -> Tensor:
    """Concatenate tensors (n, ...) of all processes in rank order to (world x n, ...), with gradient."""
    if world_size() == 1:
        return local
    if local.dtype == torch.bool:  # gloo carries no booleans
        return _Gather.apply(local.to(torch.uint8)).bool()
    return _Gather.apply(local)


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def largest(value: int, device: torch.device) -> int:
    """The largest of the processes' values; tensors are on ``device``."""
    if world_size() == 1:
        return value
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def in_processes(module: nn.Module) -> nn.Module:
    """The module as it is, or wrapped so that the gradients of what it learns are the mean over the processes."""
    if world_size() == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return DistributedDataParallel(module)
