"""AMS: an image is embedded where it is stored, once a step, and ``size`` numbers travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from downstream.layers.blocks import gather

if TYPE_CHECKING:
    from downstream.ams.server import ImageServer


def embedded_by_owner(server: ImageServer, rows: Tensor) -> Tensor:
    """Embeddings (n, size) of rows (n,), each computed by the process that stores the image.

    Requests of several processes for one image are merged: it goes through the embedding model once, and the gradients
    that come back for it are summed before they go through. Copies of hot images are embedded by whoever needs them.
    """
    hot, cold = server.split_hot(rows)
    asked, route = server.exchange.ask(rows[cold], server.owner(rows[cold]))
    distinct, place = asked.unique(return_inverse=True)
    embedded = server.embed(torch.cat([server.read(distinct), server.read_hot(rows[hot])]))
    answered = server.exchange.answer(gather(embedded[: len(distinct)], place), route, "embeddings")
    return torch.cat([answered, embedded[len(distinct) :]])[torch.cat([cold, hot]).argsort()]
