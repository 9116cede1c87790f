"""How the image features of a training are kept and moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_tools.common.cli import UserError

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ServerSettings:
    """The image server.

    Attributes
    ----------
    strategy : "local" keeps the whole table in each process; "ams", "server" and "worker" need a feature store (see
        ``downstream.ams.strategies``)
    wire : "float32" or "bfloat16", the precision in which embeddings, their gradients and raw features travel
    hot : number of the most shown images that every process keeps a copy of, so that they need not travel
    shard_ids : whether the ID embeddings are split over the processes too
    timeout : seconds without a word from a process, or in one exchange, after which the others stop
    verify : whether the feature files are read and compared with their digests before the first step
    """

    strategy: str = "local"
    wire: str = "float32"
    hot: int = 0
    shard_ids: bool = False
    timeout: float = 60.0
    verify: bool = True

    def __post_init__(self) -> None:
        from downstream.ams.strategies import STRATEGIES  # which import what imports this file

        for name, known in (("strategy", {"local", *STRATEGIES}), ("wire", WIRES)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is unknown; one of {sorted(known)} is expected")
        if self.hot < 0 or self.timeout <= 0:
            raise UserError(f"hot {self.hot} and timeout {self.timeout}: from 0 and above 0 are expected")
        if self.hot and self.strategy not in ("ams", "server"):
            raise UserError(
                f"hot images are copies of what owners have, and {self.strategy!r} has no owners: leave it 0"
            )
