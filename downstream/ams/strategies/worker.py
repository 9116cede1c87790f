"""Store in worker: raw features travel with the samples, so each process has all that its samples mention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from downstream.ams.server import ImageServer


def stored_in_worker(server: ImageServer, rows: Tensor) -> Tensor:
    """Embeddings (n, size) of rows (n,), read from this process's own copy of the store.

    The paper keeps the features beside each batch's samples; one copy for all batches of a process, as here, takes less
    room. Nothing but the embedding model's gradient travels.
    """
    return server.embed(server.read(rows))
