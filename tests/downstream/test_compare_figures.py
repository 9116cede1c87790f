"""The figures of a comparison: every cell and difference, recomputed from the kept scores."""

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from data_tools.measures.group_auc import group_auc
from downstream.comparison.figures import SCHEMAS, Figures, record
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings
from downstream.statistics.bootstrap import BootstrapSettings, bootstrap_metrics
from downstream.statistics.intervals import Cells, difference_interval
from tests.downstream.compare_helpers import chosen_forms, run


def test_figures_hold_every_cell_and_difference(reported):
    figures = json.loads((reported / "figures.json").read_text())
    assert len(figures["cells"]) == 10 * 3
    assert all(
        set(cell) == {"source", "form", "model", "encoder", "seed", "slice", "auc", "gauc", "log_loss", "ndcg", "ece"}
        for cell in figures["cells"]
    )
    assert all(set(row) == set(SCHEMAS["differences"]) and row["low"] <= row["high"] for row in figures["differences"])
    assert all(row["p_holm"] >= row["p"] for row in figures["differences"] if row["metric"] == "gauc")
    assert not any(row["direction"] for row in figures["differences"] if row["metric"] != "gauc")
    assert all(row["low"] > 0 for row in figures["differences"] if row["direction"] == 1)
    pairs = {(row["a"], row["b"]) for row in figures["differences"]}
    assert pairs == {("random", "ids"), ("courier", "ids"), ("courier", "random")}
    assert len(figures["differences"]) == 3 * 3 * 3 * 3  # pairs, forms and "best", slices, metrics
    by_key = {(c["source"], c["form"], c["seed"], c["slice"]): c for c in figures["cells"]}
    for row in figures["differences"]:
        if (row["a"], row["b"], row["form"], row["metric"]) == ("courier", "ids", "vector", "gauc"):
            ours, theirs = (
                [by_key[source, form, seed, row["slice"]]["gauc"] for seed in (0, 1)]
                for source, form in (("courier", "vector"), ("ids", "none"))
            )
            assert row["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
            assert row["low"] > 0.1
        if (row["a"], row["b"], row["slice"], row["metric"]) == ("random", "ids", "all", "auc"):
            assert row["mean"] < 0.03


def test_differences_are_those_of_the_kept_scores(reported, yaml_file, world):
    """One interval recomputed from the cache's files."""
    figures = json.loads((reported / "figures.json").read_text())
    data = load_ctr_data(world.folder, DataSettings())
    settings, rows = BootstrapSettings(resamples=100), data.rows["test"]
    people, user = np.unique(data.user[rows], return_inverse=True)
    draws, values = {}, {}
    for file in (yaml_file.parent / "cache").glob("*/row.json"):
        record = json.loads(file.read_text())
        cell = record["cell"]
        if cell["form"] != "simscore" and cell["source"] != "random" and figures_match(figures, record):
            scores = np.load(file.parent / "test_scores.npy")
            key = cell["source"], cell["seed"]
            draws[key] = bootstrap_metrics(data.click[rows], scores[None], user, len(people), settings)["gauc"][0]
            values[key] = record["metrics"]["test"]["all"]["gauc"]
    ours, theirs = ("courier", "ids")

    def cells(source, encoders):
        point = np.array([values[source, seed] for seed in (0, 1)])
        drawn = np.stack([draws[source, seed] for seed in (0, 1)])
        return Cells(
            point, drawn, np.array(encoders), np.array([0, 1]), int(group_auc(click, click, user).defined.sum())
        )

    click = data.click[rows]
    interval = difference_interval(cells(ours, [0, 1]), cells(theirs, [0, 0]), settings)
    wanted = {"a": ours, "b": theirs, "form": "vector", "slice": "all", "metric": "gauc"}
    row = next(row for row in figures["differences"] if wanted.items() <= row.items())
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((interval.mean, interval.low, interval.high))


def figures_match(figures, record):
    """Whether a kept cell is one of this comparison (the cache may hold those of other settings)."""
    return any(
        {**record["cell"], "slice": "all", **record["metrics"]["test"]["all"]}.items() <= cell.items()
        for cell in figures["cells"]
    )


def test_the_oracle_bounds_what_is_attainable(reported):
    figures = json.loads((reported / "figures.json").read_text())
    assert next(row for row in figures["oracle"] if row["slice"] == "all")["auc"] > 0.8
    shares = {(s["source"], s["form"], s["slice"]): s["share"] for s in figures["attainable"] if s["metric"] == "auc"}
    assert 0.5 < shares["courier", "vector", "all"] < 1
    assert abs(shares["random", "vector", "all"]) < 0.15


def test_shares_of_the_ceiling_are_those_of_its_gain(yaml_file, monkeypatch, tmp_path, reported):
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "o", "--main", "random", "--ceiling", "courier")
    figures = json.loads((tmp_path / "o" / "figures.json").read_text())
    gains = {
        (row["a"], row["slice"]): row["mean"]
        for row in figures["differences"]
        if (row["b"], row["form"], row["metric"]) == ("ids", "best", "gauc")
    }
    shares = {row["slice"]: row for row in figures["ceiling_shares"]}
    assert "all" in shares and {row["source"] for row in shares.values()} == {"random"}
    for part, row in shares.items():
        assert row["share"] == pytest.approx(gains["random", part] / gains["courier", part])
        assert row["low"] < row["share"] < row["high"]
    text = (tmp_path / "o" / "report.md").read_text()
    assert f"It reaches {shares['all']['share']:.0%} (95% interval" in text and "gain of COURIER, and" in text
    # what no ceiling is named for is not there, nor where the ceiling itself brings nothing
    assert not json.loads((reported / "figures.json").read_text())["ceiling_shares"]
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "n", "--ceiling", "random", pages=False)
    assert not json.loads((tmp_path / "n" / "figures.json").read_text())["ceiling_shares"]


def test_forms_are_chosen_by_validation(reported):
    rows = json.loads((reported / "figures.json").read_text())["validation"]
    worth = {source: {r["form"]: r["gauc"] for r in rows if r["source"] == source} for source in ("random", "courier")}
    for source, forms in worth.items():
        assert max(forms, key=forms.get) == chosen_forms(reported)[source]
    html = (reported / "report.html").read_text().split("by which forms were chosen</summary>")[1].split("</table>")[0]
    shown = [f"{worth['random'][form]:.4f}" for form in ("vector", "simscore")]
    assert f"<tr><td>Random vectors</td><td>{shown[0]}</td><td>{shown[1]}</td></tr>" in html


def test_figures_survive_the_file(reported, tmp_path):
    figures = Figures.read(reported / "figures.json")
    figures.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (reported / "figures.json").read_bytes()
    assert dict(figures.cells.schema) == SCHEMAS["cells"] and set(figures.sources) == {"ids", "random", "courier"}


def test_ranking_and_calibration_are_those_of_the_scores(reported, yaml_file, world):
    """NDCG by scikit-learn, page by page; the calibration error by a loop over the bins."""
    figures = Figures.read(reported / "figures.json")
    data = load_ctr_data(world.folder, DataSettings())
    rows = data.rows["test"]
    click, request = data.click[rows], data.dataset.impressions["request"].to_numpy()[rows]
    checked = 0
    for file in (yaml_file.parent / "cache").glob("*/row.json"):
        wanted = {**json.loads(file.read_text())["cell"], "slice": "all"}
        if wanted["seed"] or wanted["source"] == "random" or not (cell := record(figures.cells, **wanted)):
            continue
        scores = np.load(file.parent / "test_scores.npy").astype(np.float64)
        if cell["auc"] != pytest.approx(roc_auc_score(click, scores)):
            continue  # kept of other settings
        pages = [request == page for page in np.unique(request[click == 1])]
        assert cell["ndcg"] == pytest.approx(np.mean([ndcg_score([click[p]], [scores[p]], k=10) for p in pages]))
        order = np.argsort(scores, kind="stable")
        bins = np.array_split(order, 20)
        error = sum(len(own) * abs(click[own].mean() - scores[own].mean()) for own in bins) / len(order)
        assert cell["ece"] == pytest.approx(error, abs=1e-3)
        checked += 1
    assert checked >= 3
