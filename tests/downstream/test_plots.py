"""Where names stand at the ends of lines, and drawings of what has no line or a long name."""

import numpy as np
import pytest
from scipy.optimize import minimize

from data_tools.common.charts import spread_out
from downstream.report.plots import spectra
from downstream.report.summary import cut, wide


@pytest.mark.parametrize("seed", range(4))
def test_names_move_no_further_than_they_must(seed):
    rng = np.random.default_rng(seed)
    heights, gap, low, high = rng.uniform(0, 60, 6), 10.0, -5.0, 62.0
    placed = spread_out(heights, gap, low, high)
    order = np.argsort(heights)
    bounds = [{"type": "ineq", "fun": lambda x, k=k: x[order[k + 1]] - x[order[k]] - gap} for k in range(5)]
    start = np.empty(6)
    start[order] = np.linspace(low, high, 6)
    best = minimize(lambda x: ((x - heights) ** 2).sum(), start, constraints=bounds, bounds=[(low, high)] * 6)
    assert best.success and np.allclose(placed, best.x, atol=1e-3)


def test_names_that_do_not_fit_are_still_apart():
    placed = spread_out([3.0, 3.0, 1.0], 10.0, 0.0, 12.0)
    assert placed == pytest.approx([10, 20, 0])


@pytest.mark.filterwarnings("error")
def test_spectra_of_zeros_are_left_out():
    zeros, shares = np.full(4, np.nan), np.array([0.6, 0.3, 0.1, 0.0])
    assert spectra({"zeros": zeros}, "x") == ""
    one, both = spectra({"mine": shares}, "x"), spectra({"zeros": zeros, "mine": shares}, "x")
    assert one.count("<path") == both.count("<path") and spectra({"one dimension": np.ones(1)}, "x")


def test_a_name_is_cut_where_it_takes_the_room_of_the_bars():
    assert cut("COURIER", 9, 4) == "COURIER"
    short = cut("W" * 300, 9, 2)
    assert short.endswith("W…") and wide(short, 9) <= 2 < wide(f"W{short}", 9)
