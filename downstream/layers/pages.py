"""Large pages of memory for tables that are read at random."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor

ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # of Linux alone
LARGE = 1 << 24  # bytes; a processor knows where the pages of a smaller table are


def on_large_pages(tensor: Tensor) -> Tensor:
    """Ask Linux to keep a large new tensor on pages of 2 MiB, before anything is written to it; returns the tensor.

    A batch touches some thousand rows of a table anywhere in it, and for most of them the processor first has to find
    the page: with 4 KiB pages and 10 million rows that is a good part of a step of the optimizer. Elsewhere than on
    Linux, and on other devices, nothing is done.
    """
    size = tensor.numel() * tensor.element_size()
    if ADVICE is None or tensor.device.type != "cpu" or size < LARGE:
        return tensor
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
    # Only advice: where it is refused, the pages stay as they are.
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ADVICE)
    return tensor
