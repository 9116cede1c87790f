"""Loader processes: how many there are, and how their faults reach the user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from data_tools.common.cli import UserError
from pretrain.runtime.cpu import own_cores

# Batches that the loader processes of a training process hold ready together, where there are no more processes.
READY = 4


def loader_processes(wanted: int | None, most: int | None = None, light: bool = False) -> int:
    """Loader processes of this process: as ``wanted``, or one a core, and at most as many as can share the work.

    Without a GPU a single core loads in the training process itself, and so do two if loading is ``light`` beside the
    model: processes beside it hold up its threads for longer than they save it (a small encoder trains at 0.85 of its
    bare speed, against 0.69 with one process a core; more cores were not measured).
    """
    if wanted is not None:
        return wanted
    cores = own_cores()
    if not torch.cuda.is_available() and cores <= (2 if light else 1):
        return 0
    return cores if most is None else min(cores, max(most, 1))


def prefetched(workers: int) -> int | None:
    """Batches that each of some loader processes makes ahead."""
    return max(1, READY // workers) if workers else None


class Loader(DataLoader):
    """A DataLoader, endless or not, whose data set hands over a :class:`UserError` in place of an element.

    It is raised here as it is: torch would wrap an error raised in a loader process in that process's traceback.
    """

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            if isinstance(one, UserError):
                raise one
            yield one
