"""Where names stand at the ends of lines."""

import numpy as np
import pytest
from scipy.optimize import minimize

from data_tools.common.charts import spread_out


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
