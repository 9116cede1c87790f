"""Where an image is embedded and what travels for it: the three strategies that arXiv 1711.06505 compares, a file each.

A strategy is called as ``strategy(server, rows)`` with an ``ImageServer`` and distinct rows (n,) of its feature store;
it returns their embeddings (n, size). Every process calls it in every step, with no rows too.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from downstream.ams.strategies.ams import embedded_by_owner
from downstream.ams.strategies.server import stored_in_server
from downstream.ams.strategies.worker import stored_in_worker

STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "ams": embedded_by_owner,
    "server": stored_in_server,
    "worker": stored_in_worker,
}
