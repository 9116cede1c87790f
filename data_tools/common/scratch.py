"""Arrays larger than memory: put down on disk, and worked through a piece at a time with the bits of the whole."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

IN_MEMORY = 1 << 26  # bytes; anything larger is on disk
PIECE = 1 << 16  # rows
LARGE, HELD = 1 << 30, 1 << 28  # bytes; of an array larger than the first, as many are in memory while rows are read


def scratch_array(shape: tuple[int, ...], dtype: type = np.float32, folder: str | Path | None = None) -> np.ndarray:
    """An array of zeros: in memory where it is small, else memory-mapped from a file that goes with the array.

    Parameters
    ----------
    shape : tuple of int
    dtype : type
    folder : path, optional
        Where the file goes, if it can be written to; otherwise, and by default, in the folder for temporary files.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    if folder is not None and not os.access(folder, os.W_OK):
        folder = None
    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, size)
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def reserve(file: BinaryIO, size: int) -> None:
    """Give a file a size, and the room for it: written through a memory map, a full disk would kill the process.

    Raises
    ------
    OSError
        If the disk has less room.
    """
    file.truncate(size)
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # some disks reserve nothing
            return
        advice = f"{size / 1e6:,.0f} MB are needed for a temporary array; TMPDIR names the folder for these"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {advice}") from None


def release(*arrays: np.ndarray) -> None:
    """Let go of the memory that arrays on disk take in this process; what they hold stays, in their files.

    The system takes such pages back when it needs them, but until then they count as the process's.
    """
    for values in arrays:
        base = values
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def pieces(count: int) -> Iterator[slice]:
    """The rows of an array of ``count`` rows, some at a time."""
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count))


def rows_of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``values[rows]`` of rows (n,) of a 2-D array; of a large one on disk, a part of the file is in memory at a time.

    The system maps up to 2 MiB of a file at a touch: a few thousand rows, read at random, would make all of it the
    process's memory.
    """
    if values.nbytes <= LARGE:
        return values[rows]
    found = np.empty((len(rows), values.shape[1]), values.dtype)
    part = rows // (HELD // values[0].nbytes)
    for one in np.unique(part):
        own = part == one
        found[own] = values[rows[own]]
        release(values)
    return found


def selected(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``values[rows]`` of rows (n,) of a 2-D array, float32, as a scratch array."""
    chosen = scratch_array((len(rows), values.shape[1]))
    for piece in pieces(len(rows)):
        chosen[piece] = rows_of(values, rows[piece])
    return chosen


def column_means(values: np.ndarray) -> np.ndarray:
    """``values.mean(axis=0)`` of a 2-D array, with the same bits: numpy adds one row after the other."""
    if values.shape[1] == 1:  # one column lies as a flat array does
        return (_flat_sum(values) / values.dtype.type(len(values))).reshape(1)
    total = np.zeros((1, values.shape[1]), values.dtype)
    for piece in pieces(len(values)):
        total = np.add.reduce(np.concatenate([total, values[piece]]), axis=0, keepdims=True)
    return (total[0] / values.dtype.type(len(values))).astype(values.dtype)


def _pairwise_sum(part: Callable[[slice], np.ndarray], start: int, count: int) -> np.floating:
    """The sum of ``part(slice)`` over flat places, added in numpy's order: halves, cut at multiples of eight."""
    if count <= PIECE:
        return np.add.reduce(part(slice(start, start + count)))
    half = count // 2 - count // 2 % 8
    return _pairwise_sum(part, start, half) + _pairwise_sum(part, start + half, count - half)


def _flat_sum(values: np.ndarray) -> np.floating:
    flat = values.reshape(-1)
    return _pairwise_sum(lambda place: flat[place], 0, flat.size)


def mean_square(values: np.ndarray) -> np.floating:
    """``np.square(values).mean()`` of a contiguous array, with the same bits."""
    flat = values.reshape(-1)
    return _pairwise_sum(lambda place: np.square(flat[place]), 0, flat.size) / flat.dtype.type(flat.size)


def spread(values: np.ndarray, centre: np.ndarray) -> np.floating:
    """``(values - centre).std()`` of a contiguous 2-D array and a row, with the same bits."""
    flat, width = values.reshape(-1), values.shape[1]

    def centred(place: slice) -> np.ndarray:
        first, last = place.start // width, -(-place.stop // width)
        rows = values[first:last] - centre
        return rows.reshape(-1)[place.start - first * width :][: place.stop - place.start]

    size = flat.dtype.type(flat.size)
    mean = _pairwise_sum(centred, 0, flat.size) / size
    return np.sqrt(_pairwise_sum(lambda place: np.square(centred(place) - mean), 0, flat.size) / size)
