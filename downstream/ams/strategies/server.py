"""Store in server, a parameter server: raw features are fetched from their owners and embedded by who asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from downstream.ams.server import ImageServer


def stored_in_server(server: ImageServer, rows: Tensor) -> Tensor:
    """Embeddings (n, size) of rows (n,), whose raw features travel. Each image is read once a step by its owner."""
    hot, cold = server.split_hot(rows)
    asked, route = server.exchange.ask(rows[cold], server.owner(rows[cold]))
    distinct, place = asked.unique(return_inverse=True)
    fetched = server.exchange.answer(server.read(distinct)[place], route, "features")
    return server.embed(torch.cat([fetched, server.read_hot(rows[hot])]))[torch.cat([cold, hot]).argsort()]
