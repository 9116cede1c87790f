"""Heartbeats of the processes of a training: an error names the one that was lost.

They are written to the key-value store through which torch.distributed brought the processes together.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from data_tools.common.errors import UserError

KEEPER = 0  # of the store, where no launcher keeps it
_calls: dict[str, int] = {}


def all_gather_text(topic: str, text: str) -> list[str]:
    """Gather one text from every process, by rank; a collective through the key-value store, without pickle."""
    if not dist.is_initialized():
        return [text]
    _calls[topic] = _calls.get(topic, 0) + 1
    store, prefix = _get_default_store(), f"text/{topic}/{_calls[topic]}"
    store.set(f"{prefix}/{dist.get_rank()}", f"-{text}")  # get would wait for a value that is empty
    return [store.get(f"{prefix}/{rank}").decode()[1:] for rank in range(dist.get_world_size())]


class Heartbeat:
    """Beats until closed, and ends this process with a message if another one is silent for ``limit`` seconds.

    A process that exits in order announces it, and is not reported.

    Parameters
    ----------
    limit : float
        Seconds of silence after which a process counts as lost, whatever this one is waiting for.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.interval = limit, min(limit / 5, 1.0)
        all_gather_text("heartbeat", "")
        self.key = f"beat/{_calls['heartbeat']}"
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self.store = _get_default_store().clone()
        self.heard = {rank: (b"", time.monotonic()) for rank in range(self.processes)}
        self.listened = time.monotonic()
        self.closing = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._beat, self._watch)]
        for thread in self.threads:
            thread.start()

    def _beat(self) -> None:
        beat = 0
        while not self.closing.wait(self.interval if beat else 0):
            beat += 1
            # Where the process that keeps the store is gone, no beat can be read: ``silent`` notices that.
            with contextlib.suppress(RuntimeError, ConnectionError):
                self.store.set(f"{self.key}/{self.rank}", str(beat))
                self._listen()

    def _listen(self) -> None:
        for rank in range(self.processes):
            if self.store.check([f"{self.key}/{rank}"]):
                said = self.store.get(f"{self.key}/{rank}")
                if said != self.heard[rank][0]:
                    self.heard[rank] = (said, time.monotonic())
        self.listened = time.monotonic()

    def _watch(self) -> None:
        while not self.closing.wait(self.interval):
            if lost := self.silent(self.limit):
                # The main thread may be waiting inside a collective, where no exception reaches it.
                print(f"error: {self.describe(lost)}", file=sys.stderr, flush=True)
                self._announce_exit()
                os._exit(1)

    def silent(self, seconds: float) -> list[int]:
        """Ranks without a beat for so long that have not announced their exit.

        Only time in which this process could read the store counts: where the process that keeps it is gone, no beat
        can be read, and only that process is reported.
        """
        listened = self.listened
        if time.monotonic() - listened > seconds:
            return [KEEPER]
        return [
            rank
            for rank, (said, heard) in self.heard.items()
            if rank != self.rank and listened - heard > seconds and said != b"done"
        ]

    def describe(self, lost: list[int]) -> str:
        """The message."""
        names = " and ".join(f"rank {rank}" for rank in lost)
        return (
            f"rank {self.rank}: no heartbeat from {names} of {self.processes}; it was killed, or its machine or "
            "network is down. Stopped; run the same command again to continue from the last checkpoint"
        )

    def _announce_exit(self) -> None:
        # Where the store does not answer, setting a key would wait for it.
        if time.monotonic() - self.listened > 3 * self.interval:
            return
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.store.set(f"{self.key}/{self.rank}", "done")
            if self.rank == KEEPER:
                self._wait_for_peers()

    def _wait_for_peers(self) -> None:
        """Wait for the others to exit or fall silent: the store may end with this process, and they still read it."""
        deadline = time.monotonic() + 10 * self.interval
        while time.monotonic() < deadline:
            self._listen()
            alive = {rank for rank, (said, _) in self.heard.items() if rank != self.rank and said != b"done"}
            if not alive - set(self.silent(5 * self.interval)):
                return
            time.sleep(self.interval / 4)

    def close(self) -> None:
        """Stop beating, and announce it."""
        self.closing.set()
        for thread in self.threads:
            thread.join(self.interval)
        self._announce_exit()


@contextlib.contextmanager
def report_lost_ranks(limit: float) -> Iterator[None]:
    """Turn the error of a broken collective into a UserError that names the lost process.

    Does nothing in a single process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    heartbeat = Heartbeat(limit)
    try:
        yield
    except RuntimeError as error:
        deadline = time.monotonic() + 8 * heartbeat.interval
        lost: list[int] = []
        while not lost and time.monotonic() < deadline:
            time.sleep(heartbeat.interval / 4)
            lost = heartbeat.silent(2.5 * heartbeat.interval)
        if not lost:
            raise
        raise UserError(heartbeat.describe(lost)) from error
    finally:
        heartbeat.close()
