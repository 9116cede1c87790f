"""What a report tells of the encoders' trainings, from run folders with known contents."""

import json

import polars as pl
import pytest

from data_tools.common.files import read_json, write_json
from downstream.comparison.figures import Figures
from downstream.comparison.sources import Source
from downstream.report.encoder_runs import CURVES, encoder_runs, training_rows
from downstream.report.panels import training_panels
from downstream.report.words import Names


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "courier-0"
    folder.mkdir()
    log = [
        {"step": 0, "valid_page_auc_warm": 0.5, "valid_page_auc_cold": 0.51},
        {"step": 20, "loss": 3.0, "chance": 3.5, "effective_rank": 7.0, "images_per_second": 90.0, "alignment": None},
        {"step": 40, "loss": 2.5, "chance": 3.5, "effective_rank": 8.0, "images_per_second": 100.0},
        {"step": 40, "valid_page_auc_warm": 0.6, "valid_page_auc_cold": 0.58},  # resumed by a later version
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    summary = {"objective": "courier", "seed": 3, "steps": 40, "best_step": 40, "seconds": 61.4}
    write_json(folder / "summary.json", summary | {"peak_memory_mib": {"process": 1234.5}})
    settings = {"encoder": {"image_size": 64}, "batch": {"rows": 256}}
    write_json(folder / "run.json", {"settings": settings, "commit": "abc"})
    return folder


def test_a_run_is_reported_with_its_curves_and_cost(run, tmp_path):
    sources = {
        "ids": Source(),
        "elsewhere": Source(table="t"),
        "untrained": Source(run=str(run), weights="initial"),
        "courier": Source(run=[str(run), str(tmp_path / "has-no-record")]),
    }
    runs, curves = encoder_runs(sources)
    (found,) = runs.to_dicts()
    assert (found["source"], found["objective"], found["seed"], found["commit"]) == ("courier", "courier", 3, "abc")
    points = [curves.filter(curve=name).select("step", "value").rows() for name in CURVES]
    assert points == [[(0, 0.51), (40, 0.58)], [(20, -0.5), (40, -1.0)], [(20, 7.0), (40, 8.0)]]
    (row,) = training_rows(runs, Names({}))
    assert row[0] == "COURIER" and row[5:] == ["64 px", "256", "40 of 40", "61", "100", "1,234", "–"]


def test_last_weights_are_those_of_the_last_step(run):
    summary = read_json(run / "summary.json")
    write_json(run / "summary.json", summary | {"best_step": 20})
    sources = {weights: Source(run=str(run), weights=weights) for weights in ("trained", "last")}
    runs, _ = encoder_runs(sources)
    assert runs.select("source", "best_step").rows() == [("trained", 20), ("last", 40)]
    # An objective has its own name, whatever a source of that name is called.
    names = Names({"courier": "COURIER of last week", "trained": "the best"})
    assert [row[:3:2] for row in training_rows(runs, names)] == [["the best", "COURIER"], ["last", "COURIER"]]


def test_of_each_source_the_first_run_is_drawn(run):
    _, curves = encoder_runs({"courier": Source(run=str(run))})
    later = curves.with_columns(run=pl.lit("another"), step=pl.col("step") + 1000)
    panels = training_panels(Figures(encoder_curves=pl.concat([curves, later])), Names({}))
    alone = training_panels(Figures(encoder_curves=curves), Names({}))
    assert panels == alone and [name for name, _ in panels] == list(CURVES)
    for name, svg in panels:
        assert f'aria-label="{name} by step: COURIER"' in svg
    assert training_panels(Figures(), Names({})) == []
