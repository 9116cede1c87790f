"""Arrays on disk, and figures of them by pieces with the bits of numpy on the whole."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.common import scratch


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(scratch, "PIECE", 1000)
    monkeypatch.setattr(scratch, "IN_MEMORY", 5000)


SHAPES = [(1, 4), (3, 1), (999, 4), (5000, 4), (100_000, 1), (77_777, 3), (30_000, 128), (200_001, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("centre", [0, 3])
def test_figures_have_the_bits_of_the_whole(shape, centre):
    values = (np.random.default_rng(0).normal(size=shape) + centre).astype(np.float32)
    mean = values.mean(axis=0)
    assert np.array_equal(scratch.column_means(values), mean)
    assert scratch.spread(values, mean) == (values - mean).std()
    assert scratch.mean_square(values) == np.square(values).mean()


@pytest.mark.parametrize("rows", [10, 5000])
def test_an_array_is_zeros_that_can_be_written_and_leaves_no_file(tmp_path, rows):
    made = scratch.scratch_array((rows, 4), folder=tmp_path)
    assert made.shape == (rows, 4) and made.dtype == np.float32 and not made.any()
    assert not list(tmp_path.iterdir())
    made[3] = 1
    assert made.sum() == 4
    assert (made.base is not None) == (rows == 5000)  # that of a memory map


def test_selected_rows_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float16)
    rows = np.random.default_rng(1).integers(4000, size=2500)
    assert np.array_equal(scratch.selected(values, rows), values[rows].astype(np.float32))


def test_rows_of_a_large_array_are_read_with_a_part_of_it_in_memory(monkeypatch):
    monkeypatch.setattr(scratch, "LARGE", 1 << 26)
    monkeypatch.setattr(scratch, "HELD", 1 << 24)
    values = scratch.scratch_array((1 << 18, 100))
    values[:] = np.arange(1 << 18)[:, None]
    scratch.release(values)
    before, rows = resident(), np.random.default_rng(0).integers(1 << 18, size=3000)
    assert (scratch.rows_of(values, rows) == rows[:, None]).all()
    assert resident() < before + 50
    assert scratch.rows_of(values, rows[:0]).shape == (0, 100)


def test_released_arrays_keep_what_they_hold_and_not_their_memory():
    values = scratch.scratch_array((1 << 18, 100))
    values[:] = np.arange(100)
    before = resident()
    scratch.release(values[5:], values, np.ones(3))
    assert resident() < before - 80
    assert (values[:: 1 << 10] == np.arange(100)).all()


def resident() -> float:
    """Memory of this process, in MiB."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
