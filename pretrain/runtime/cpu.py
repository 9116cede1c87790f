"""A process made ready to train or export on a CPU: its share of the cores, and what it keeps from step to step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_tools.common.memory import keep_freed_memory

# Convolutions that oneDNN keeps compiled. Each is for one number of pictures, which differs from batch to batch, and it
# keeps 1,024: 15 numbers of a small encoder, whose steps then spend a tenth of a core's time, on one core whatever
# their number, on compiling what the cache has just lost.
COMPILED = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192"


def prepare_cpu() -> None:
    """Set the threads, oneDNN's cache and the allocator; called once, before the first convolution."""
    share_cores()
    keep_compiled_convolutions()
    keep_freed_memory()


def own_cores() -> int:
    """Cores of this process: those it may run on, shared among the processes of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def share_cores() -> None:
    """Without a GPU, compute on all of this process's cores: accelerate's launcher leaves one thread to each."""
    if not torch.cuda.is_available():
        torch.set_num_threads(own_cores())


@contextmanager
def one_core_a_thread() -> Iterator[None]:
    """Let this thread, and those started meanwhile, compute on one core each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_compiled_convolutions() -> None:
    """Let oneDNN keep convolutions for the next batch with as many pictures; it reads this at its first convolution."""
    os.environ.setdefault(*COMPILED)
