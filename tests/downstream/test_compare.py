"""A comparison from YAML to report: resumed where it stopped, counted in the ledger, cheats flagged."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import downstream.comparison.cells
from data_tools.common.cli import UserError
from data_tools.tables.table import write_table
from downstream.compare import Settings, compare
from downstream.comparison.figures import Figures, record
from downstream.comparison.sources import Source
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.training.settings import TrainingSettings
from tests.benchmarks.leaks import click_vectors
from tests.downstream.compare_helpers import run


@pytest.fixture
def fits(monkeypatch):
    """Counts the trainings; set ``stop_after`` to be interrupted in the middle of one."""
    real, counted = downstream.comparison.cells.fit, {"count": 0, "stop_after": None}

    def counting(*arguments, **options):
        if counted["count"] == counted["stop_after"]:
            raise KeyboardInterrupt
        counted["count"] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(downstream.comparison.cells, "fit", counting)
    return counted


def test_an_interrupted_comparison_continues_and_a_finished_one_trains_nothing(yaml_file, monkeypatch, fits, tmp_path):
    out, given = tmp_path / "out", ["--config", yaml_file, "--cache", tmp_path / "cells", "--ctr_seeds", "[0]"]
    given += ["--training.optim.batch_size", "512", "--out"]
    fits["stop_after"] = 3
    with pytest.raises(SystemExit, match="130"):
        run(monkeypatch, *given, out, pages=False)
    assert not out.exists()
    fits["stop_after"] = None
    run(monkeypatch, *given, out, pages=False)
    assert fits["count"] == 5  # ids + 2 tables x 2 forms
    first = json.loads((out / "figures.json").read_text())
    run(monkeypatch, *given, tmp_path / "again", pages=False)
    assert fits["count"] == 5
    again = json.loads((tmp_path / "again" / "figures.json").read_text())
    assert again["cells"] == first["cells"] and again["differences"] == first["differences"]
    run(monkeypatch, *given, tmp_path / "other", "--training.optim.lr", "0.002", pages=False)
    assert fits["count"] == 10


def test_every_comparison_that_scored_the_test_rows_is_counted_once(yaml_file, monkeypatch, tmp_path, reported, world):
    ledger = world.folder / "test_looks.jsonl"
    before = ledger.read_text().splitlines()
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "again", pages=False)
    assert ledger.read_text().splitlines() == before
    flags = ["--main", "random", "--primary.against", "ids", "--title", "Once more", "--pictures", "false"]
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "other", *flags)
    added = [json.loads(line) for line in ledger.read_text().splitlines()[len(before) :]]
    assert [(one["title"], one["contrasts"], one["primary"]) for one in added] == [
        ("Once more", 81, "random against ids, all")
    ]
    text = (tmp_path / "other" / "report.md").read_text()
    assert f"{len(before)} other comparison" in text and "one declared before the run" in text
    assert text.split("\n\n")[1].startswith("Declared before the run: Random vectors (")
    (row,) = [
        one for one in json.loads((tmp_path / "other" / "figures.json").read_text())["differences"] if one["primary"]
    ]
    assert (row["a"], row["b"], row["slice"], row["metric"], row["form"]) == ("random", "ids", "all", "gauc", "best")


def test_a_part_of_the_test_days_is_scored_alone(tiny_world, tmp_path):
    settings = Settings(
        out=str(tmp_path / "out"),
        dataset=str(tiny_world / "dataset"),
        sources={"ids": None, "courier": Source(table=str(tiny_world / "planted"))},
        ctr_seeds=[0],
        training=TrainingSettings(DataSettings(history=5), optim=OptimSettings(batch_size=512)),
        bootstrap=BootstrapSettings(resamples=20),
        cache=str(tmp_path / "cache"),
        test_days=(0.5, 2.0),
        pictures=False,
    )
    compare(settings, "")
    figures = Figures.read(tmp_path / "out" / "figures.json")
    shown = load_ctr_data(tiny_world / "dataset", DataSettings()).dataset.impressions
    test = shown.filter(pl.col("split") == "test")
    days = (test["timestamp"] - test["timestamp"].min()) / 86_400
    kept = test.filter((days >= 0.5) & (days < 2.0))
    assert 0 < len(kept) < len(test)
    assert figures.calibration.filter(source="ids")["impressions"].sum() == len(kept)
    oracle = record(figures.oracle, slice="all")
    assert oracle["auc"] == pytest.approx(roc_auc_score(kept["click"], kept["oracle"]))
    with pytest.raises(UserError, match=r"test_days .* hold 0 impressions"):
        compare(replace(settings, test_days=(90.0, 91.0)), "")


def test_a_planted_cheat_is_flagged_in_the_first_sentence(world, monkeypatch, tmp_path, capsys):
    """An SVD of the test clicks, beside honest vectors, through the command."""
    data = load_ctr_data(world.folder, DataSettings())
    cheat = np.column_stack([world.random.vectors, click_vectors(data, "test", 16)]).astype(np.float32)
    write_table(tmp_path / "cheat", world.random.ids, cheat, {})
    settings = {
        "dataset": str(world.folder),
        "sources": {"ids": {}, "courier": {"table": str(tmp_path / "cheat")}},
        "ctr_seeds": [0],
        "training": {"data": {"history": 10}, "optim": {"batch_size": 512}},
        "bootstrap": {"resamples": 20},
        "cache": str(tmp_path / "cache"),
        "pictures": False,
    }
    (tmp_path / "cheat.yaml").write_text(yaml.safe_dump(settings))
    run(monkeypatch, "--config", tmp_path / "cheat.yaml", "--out", tmp_path / "out")
    warning = "COURIER appears to know test labels: cosines with a user's clicks"
    assert warning in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "report.md").read_text().split("\n\n")[1].startswith(warning)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "data:image" not in html and "Nearest neighbours" not in html  # pictures are left out
    assert html.split('<div class="verdict">')[1].lstrip().startswith(f"<p>{warning.replace(chr(39), '&#39;')}")
