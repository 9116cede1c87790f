"""Batches made ahead of their use, in as many threads as it takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from data_tools.common.ahead import mapped_ahead
from downstream.data.ctr_data import Batch, CTRData

# More threads than that wait for each other: numpy holds the interpreter's lock between its loops.
MOST_THREADS = 4


def loader_threads(wanted: int | None, processes: int = 1) -> int:
    """How many threads make batches: as many as are wanted, or the cores that the model leaves to a process."""
    if wanted:
        return wanted
    cores = len(os.sched_getaffinity(0)) // processes
    return max(1, min(cores - torch.get_num_threads(), MOST_THREADS))


def batches_ahead(data: CTRData, parts: Iterable[np.ndarray], threads: int) -> Iterator[Batch]:
    """The batches of some rows each, in their order; while one is used, each thread makes one of the next."""
    return mapped_ahead(data.batch, parts, threads)
