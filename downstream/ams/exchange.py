"""Collectives with gradient: rows fetched from their owners, and replicas whose gradients are summed.

All run over a process group of their own, so that their order cannot mix with that of other collectives. Every process
has to call them in every step, even with nothing to ask for; each is an identity in a single process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from downstream.ams.traffic import Traffic

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Route:
    """Who is asked for what.

    Attributes
    ----------
    order : Tensor
        int64 (n,), sorts the asked rows by owner.
    send, receive : list of int
        Rows that this process asks of each process, and that each asks of it.
    """

    order: Tensor
    send: list[int]
    receive: list[int]


class Exchange:
    """The collectives of one group of processes.

    Parameters
    ----------
    wire : torch.dtype
        The widest floating-point type in which values travel; they are summed in float32 in any case.
    timeout : float
        Seconds after which a collective that some process has not joined fails.
    """

    def __init__(self, wire: torch.dtype = torch.float32, timeout: float = 60.0) -> None:
        self.wire = wire
        self.traffic = Traffic()
        self.rank, self.processes, self.group = 0, 1, None
        if dist.is_initialized():
            self.rank, self.processes = dist.get_rank(), dist.get_world_size()
            self.group = dist.new_group(timeout=timedelta(seconds=timeout))

    def _move(self, values: Tensor, send: list[int], receive: list[int], kind: str) -> Tensor:
        """All-to-all of rows sorted by receiver, (sum(send), ...) -> (sum(receive), ...)."""
        if self.processes == 1:
            return values
        dtype = values.dtype
        if dtype.is_floating_point and dtype.itemsize > self.wire.itemsize:
            values = values.to(self.wire)
        moved = values.new_empty(sum(receive), *values.shape[1:])
        dist.all_to_all_single(moved, values.contiguous(), receive, send, group=self.group)
        self.traffic.exchanged(kind, values.element_size() * math.prod(values.shape[1:]), send, receive, self.rank)
        return moved.to(dtype)

    def ask(self, rows: Tensor, owner: Tensor) -> tuple[Tensor, Route]:
        """Send each of rows (n,) to its owner (n,).

        Returns
        -------
        asked : Tensor
            int64 (m,), rows that all processes ask this one for.
        route : Route
            For :meth:`answer`.
        """
        send = torch.bincount(owner, minlength=self.processes)
        receive = send
        if self.processes > 1:
            receive = torch.empty_like(send)
            dist.all_to_all_single(receive, send, group=self.group)
            self.traffic.exchanged("ids", send.itemsize, [1] * self.processes, [1] * self.processes, self.rank)
        route = Route(owner.argsort(stable=True), send.tolist(), receive.tolist())
        asked = self._move(rows[route.order].int(), route.send, route.receive, "ids").long()
        self.traffic.work["asked"] += len(asked)
        return asked, route

    def answer(self, values: Tensor, route: Route, kind: str) -> Tensor:
        """Send values (m, ...), in the order asked, back to the processes that asked.

        Returns
        -------
        Tensor
            (n, ...) in the order of this process's rows, with gradient.
        """
        moved = _Answer.apply(values, self, route, kind) if self.processes > 1 else values
        return torch.empty_like(moved).index_copy(0, route.order, moved)

    def replicate(self, parameters: list[Tensor]) -> list[Tensor]:
        """The parameters of a replica, whose gradients become the mean over the processes of each one's own."""
        return list(_Replicate.apply(self, *parameters)) if self.processes > 1 else parameters


class _Answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, exchange: Exchange, route: Route, kind: str) -> Tensor:
        ctx.exchange, ctx.route = exchange, route
        return exchange._move(values, route.receive, route.send, kind)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        route = ctx.route
        return ctx.exchange._move(gradient, route.send, route.receive, "gradients"), None, None, None


class _Replicate(torch.autograd.Function):
    """Identity whose backward averages: the loss of several processes is the mean of theirs (as DDP has it)."""

    @staticmethod
    def forward(ctx, exchange: Exchange, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        exchange = ctx.exchange
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=exchange.group)
        flat /= exchange.processes
        exchange.traffic.reduced("model", flat.nbytes, exchange.processes)
        parts = flat.split([gradient.numel() for gradient in gradients])
        return None, *(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))
