"""What the C library's allocator does with the memory of freed tensors on a CPU.

glibc gives every block above its mmap threshold (at most 32 MiB) back to the system when it is freed, and gets it
again, page by page and zeroed, for the next step's tensor of the same size. On a CPU that was half of the processor's
time: a step of the default's encoder took 13.9 s of it and takes 6.6 s, export's forward pass at 224 px 15.4 s and 5.4
s, with a peak of memory that is 1.35 to 1.65 times as high (1.9 times where batches differ much in size): the default
run's is 8.4 GB instead of 5.1, and one of MobileNetV2 with batches of some 600 pictures grew beyond 11.9 GB instead of
7.5. So it is done where memory is plentiful, and only as long as it is.
"""

from __future__ import annotations

import ctypes

import psutil
import torch

# glibc's numbers of mallopt's parameters, what they are set to, and its own values.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
GIVE_BACK = {M_MMAP_MAX: 65_536, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 128 << 10}
PLENTY = 12 << 30  # bytes of the machine's memory
SCARCE = 0.2  # share of the machine's memory that is available


def keep_freed_memory() -> bool:
    """On a CPU, let the process keep the memory of freed tensors for the next ones; returns whether it does.

    Nothing is done without glibc, on a machine with less than 12 GiB of memory, or with a GPU, whose tensors torch
    keeps itself.
    """
    return _keeps(psutil.virtual_memory().total) and _set(KEEP)


def give_back_where_scarce() -> bool:
    """Where the machine runs out of memory, give back what is kept, and keep no more; returns whether it did.

    It asks for the memory of the machine, which takes some 50 microseconds: once a step. Nothing is done where
    :func:`keep_freed_memory` keeps nothing.
    """
    memory = psutil.virtual_memory()
    if memory.available > SCARCE * memory.total or not _keeps(memory.total) or not _set(GIVE_BACK):
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def _keeps(total: int) -> bool:
    """Whether freed memory is kept on a machine with so many bytes."""
    return total >= PLENTY and not torch.cuda.is_available()


def _set(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return all(mallopt(option, value) for option, value in options.items())
