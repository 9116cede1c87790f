"""Where an image is embedded and what travels for it: the three strategies that arXiv 1711.06505 compares.

A strategy is called as ``strategy(server, rows)`` with distinct rows (n,) of the server's feature store and returns
their embeddings (n, size). Every process calls it in every step, also without rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from downstream.ams.exchange import Exchange
from downstream.layers.blocks import gather


class Server(Protocol):
    """What a strategy needs of an image server (:class:`downstream.ams.server.ImageServer`)."""

    exchange: Exchange

    def owner(self, rows: Tensor) -> Tensor:
        """The process that owns each of the rows (n,)."""

    def split_hot(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in rows (n,) of the images that every process has a copy of, and of the others."""

    def read(self, rows: Tensor) -> Tensor:
        """Raw features of rows that this process owns."""

    def read_hot(self, rows: Tensor) -> Tensor:
        """Raw features of rows that every process has a copy of."""

    def embed(self, raw: Tensor) -> Tensor:
        """Embeddings (n, size) of raw features (n, ...)."""


def embedded_by_owner(server: Server, rows: Tensor) -> Tensor:
    """AMS: an image is embedded by the process that stores it, once a step, and ``size`` numbers travel.

    Requests of several processes for one image are merged: it goes through the embedding model once, and the gradients
    that come back for it are summed before they go through. Copies of hot images are embedded by whoever needs them.
    """
    hot, other = server.split_hot(rows)
    asked, route = server.exchange.ask(rows[other], server.owner(rows[other]))
    distinct, place = asked.unique(return_inverse=True)
    embedded = server.embed(torch.cat([server.read(distinct), server.read_hot(rows[hot])]))
    answered = server.exchange.answer(gather(embedded[: len(distinct)], place), route, "embeddings")
    return torch.cat([answered, embedded[len(distinct) :]])[torch.cat([other, hot]).argsort()]


def stored_in_server(server: Server, rows: Tensor) -> Tensor:
    """Store in server: raw features travel from their owner, as from a parameter server, to the process that asked.

    Each image is read once a step by its owner.
    """
    hot, other = server.split_hot(rows)
    asked, route = server.exchange.ask(rows[other], server.owner(rows[other]))
    distinct, place = asked.unique(return_inverse=True)
    fetched = server.exchange.answer(server.read(distinct)[place], route, "features")
    return server.embed(torch.cat([fetched, server.read_hot(rows[hot])]))[torch.cat([other, hot]).argsort()]


def stored_in_worker(server: Server, rows: Tensor) -> Tensor:
    """Store in worker: each process has its own copy of the store, as if raw features came with the samples.

    The paper stores the features with each batch's samples; one copy for all batches of a process, as here, takes less
    room. Nothing but the embedding model's gradient travels.
    """
    return server.embed(server.read(rows))


STRATEGIES: dict[str, Callable[[Server, Tensor], Tensor]] = {
    "ams": embedded_by_owner,
    "server": stored_in_server,
    "worker": stored_in_worker,
}
