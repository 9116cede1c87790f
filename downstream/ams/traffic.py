"""Bytes that travel between the processes and the work of each, counted where it happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

# Bytes by kind: what is asked for, what comes back, dL/de, raw features, and the embedding model's own gradient.
KINDS = ("ids", "embeddings", "gradients", "features", "model")
WORK = ("asked", "embedded")


@dataclass
class Traffic:
    """Running counts of one process. What stays in the process does not travel and is not counted.

    Attributes
    ----------
    sent, received : Counter
        Kind (one of ``KINDS``) -> bytes.
    work : Counter
        "asked", requests answered for any process; "embedded", images put through the embedding model.
    """

    sent: Counter = field(default_factory=Counter)
    received: Counter = field(default_factory=Counter)
    work: Counter = field(default_factory=Counter)

    def exchanged(self, kind: str, row_bytes: int, sent: list[int], received: list[int], rank: int) -> None:
        """Count an all-to-all of rows of ``row_bytes``; ``sent`` and ``received`` are rows by process."""
        self.sent[kind] += row_bytes * (sum(sent) - sent[rank])
        self.received[kind] += row_bytes * (sum(received) - received[rank])

    def reduced(self, kind: str, size: int, processes: int) -> None:
        """Count an all-reduce of ``size`` bytes: each process sends and receives 2 (n - 1) / n of them in a ring."""
        moved = 2 * (processes - 1) * size // processes
        self.sent[kind] += moved
        self.received[kind] += moved

    def clear(self) -> None:
        """Start again from nothing."""
        for counts in (self.sent, self.received, self.work):
            counts.clear()

    def of_all(self) -> torch.Tensor:
        """Counts of all processes, int64 (processes, kinds of bytes sent, then received, then work); a collective."""
        counts = [self.sent[kind] for kind in KINDS] + [self.received[kind] for kind in KINDS]
        own = torch.tensor(counts + [self.work[name] for name in WORK])
        if not dist.is_initialized():
            return own[None]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        every = [torch.empty_like(own, device=device) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own.to(device))
        return torch.stack(every).cpu()


def summary(counts: torch.Tensor, steps: int) -> dict:
    """What :meth:`Traffic.of_all` found, a step: bytes sent by all processes by kind, and the balance of the work.

    Balance is the busiest process's work over the mean (1 is perfect).
    """
    kinds = len(KINDS)
    sent, received = counts[:, :kinds].sum(0), counts[:, kinds : 2 * kinds].sum(0)
    if not torch.equal(sent, received):
        raise AssertionError(f"{sent.tolist()} bytes were sent and {received.tolist()} received")
    work = counts[:, 2 * kinds :].double()
    return {
        "bytes": {kind: int(value) // steps for kind, value in zip(KINDS, sent, strict=True)},
        "work": {name: float(value) / steps for name, value in zip(WORK, work.sum(0), strict=True)},
        "balance": {
            name: float(work[:, place].max() / work[:, place].mean().clamp(min=1e-9)) for place, name in enumerate(WORK)
        },
    }
