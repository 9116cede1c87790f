"""Who is still there: each process beats in the store that brought them together, and a silent one is named."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from data_tools.common.cli import UserError

KEEPER = 0  # of the store, where no launcher keeps it
_calls: dict[str, int] = {}


def all_said(topic: str, word: str) -> list[str]:
    """What every process has to say on a topic, by process; returns when all have spoken (no pickles travel)."""
    if not dist.is_initialized():
        return [word]
    _calls[topic] = _calls.get(topic, 0) + 1
    store, prefix = _get_default_store(), f"said/{topic}/{_calls[topic]}"
    store.set(f"{prefix}/{dist.get_rank()}", f"-{word}")  # a store may wait for a value that is empty
    return [store.get(f"{prefix}/{rank}").decode()[1:] for rank in range(dist.get_world_size())]


class Heartbeat:
    """Beats until closed, and ends this process with a message if another one falls silent for ``limit`` seconds.

    A process that stops orderly says so and is not missed.

    Parameters
    ----------
    limit : seconds of silence after which a process counts as lost, whatever this one is waiting for
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.interval = limit, min(limit / 5, 1.0)
        all_said("heartbeat", "")
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
            # Where the store's keeper is gone, nobody can be heard: that is noticed in ``silent``.
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
                self._bow_out()
                os._exit(1)

    def silent(self, seconds: float) -> list[int]:
        """Processes that have not been heard for so long, and have not said that they would stop.

        Only time in which this process could listen counts: where the store's keeper is gone, nobody is heard, and
        only the keeper is to blame.
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
            f"rank {self.rank}: nothing has been heard of {names} of {self.processes}; it was killed, or its "
            "machine or network is down. Stopped; start the same command again to go on from the last checkpoint"
        )

    def _bow_out(self) -> None:
        if time.monotonic() - self.listened > 3 * self.interval:  # the store does not answer: this would wait for it
            return
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.store.set(f"{self.key}/{self.rank}", "done")
            if self.rank == KEEPER:
                self._see_off()

    def _see_off(self) -> None:
        """Wait for the others to leave or fall silent: the store may end with this process, and they still listen."""
        deadline = time.monotonic() + 10 * self.interval
        while time.monotonic() < deadline:
            self._listen()
            there = {rank for rank, (said, _) in self.heard.items() if rank != self.rank and said != b"done"}
            if not there - set(self.silent(5 * self.interval)):
                return
            time.sleep(self.interval / 4)

    def close(self) -> None:
        """Stop beating, having said so."""
        self.closing.set()
        for thread in self.threads:
            thread.join(self.interval)
        self._bow_out()


@contextlib.contextmanager
def naming_the_lost(limit: float) -> Iterator[None]:
    """Turn the error of a broken collective into a UserError that names the process which was lost.

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
