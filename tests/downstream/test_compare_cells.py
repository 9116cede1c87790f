"""The cells of a comparison: what decides one, and that nobody makes one twice."""

from dataclasses import replace

import numpy as np
import pytest

import downstream.comparison.cells
from data_tools.common.cli import progress_bar
from downstream.comparison.cells import Cell, cell_digest, run_cells
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


def test_a_cell_that_another_comparison_makes_meanwhile_is_taken(world, tables, tmp_path, monkeypatch):
    data = load_ctr_data(world.folder, DataSettings(history=4))
    training = TrainingSettings(data.settings, optim=OptimSettings(batch_size=512))
    mine, theirs = (Cell("courier", "vector", "dicm", seed, tables / "planted", training) for seed in (0, 1))
    fit, fitted = downstream.comparison.cells.fit, []

    def fit_while_another_runs(*given, **options):
        fitted.append(given)
        folder = tmp_path / cell_digest(theirs, data)
        folder.mkdir()
        (folder / "row.json").write_text('{"by": "another"}')
        np.save(folder / "test_scores.npy", np.zeros(3))
        return fit(*given, **options)

    monkeypatch.setattr(downstream.comparison.cells, "fit", fit_while_another_runs)
    rows = run_cells([mine, theirs], tmp_path, data, 1, progress_bar(shown=False))
    assert len(fitted) == 1 and rows[1].record == {"by": "another"} and "by" not in rows[0].record


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_find_what_one_process_finds(world, tables, tmp_path, count):
    """Processes of their own, one for each cell."""
    data = load_ctr_data(world.folder, DataSettings(history=4))
    training = TrainingSettings(data.settings, optim=OptimSettings(batch_size=512))
    cells = [Cell("courier", "vector", "dicm", seed, tables / "planted", training) for seed in range(count)]
    alone, together = (
        run_cells(cells, tmp_path / str(workers), data, workers, progress_bar(shown=False)) for workers in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.test_scores, other.test_scores)
        assert one.record["metrics"] == other.record["metrics"]


def test_what_decides_a_cell_is_in_its_digest(world, tables):
    data = load_ctr_data(world.folder, DataSettings(history=4))
    base = Cell("courier", "vector", "dicm", 0, tables / "planted", TrainingSettings(data.settings))
    others = [
        replace(base, seed=1),
        replace(base, table=tables / "random"),
        replace(base, table=None),
        replace(base, training=replace(base.training, optim=OptimSettings(lr=0.1))),
        replace(base, training=replace(base.training, image=ImageSettings(size=3))),
        replace(base, training=replace(base.training, model=ModelSettings(hidden=(9,)))),
    ]
    assert len({cell_digest(cell, data) for cell in [base, *others]}) == 7
    assert cell_digest(replace(base, source="another name"), data) == cell_digest(base, data)
