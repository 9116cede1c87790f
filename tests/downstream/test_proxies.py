"""Proxies against loops, and leaks planted and honest."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from downstream.comparison.leaks import probe
from downstream.comparison.proxies import (
    PROXIES,
    exchange_rates,
    next_click_recall,
    proxies,
    proxy_correlations,
    sim_score_page_auc,
)
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings
from tests.benchmarks.leaks import honest, leaky


@pytest.fixture(scope="module")
def data(world):
    return load_ctr_data(world.folder, DataSettings(history=6))


def histories(data, rows):
    for row in rows:
        end = data.clicks_before[row]
        yield data.clicked[data.offsets[data.user[row]] :][max(end - 6, 0) : end]


def test_page_auc_equals_a_loop(data, world):
    unit = world.table.vectors / np.linalg.norm(world.table.vectors, axis=1, keepdims=True)
    rows = data.rows["valid"]
    rows = rows[data.clicks_before[rows] > 0]
    scores = [
        unit[past].mean(axis=0) @ unit[data.item[row]] for row, past in zip(rows, histories(data, rows), strict=True)
    ]
    request, scores = data.dataset.impressions["request"].to_numpy()[rows], np.array(scores, dtype=np.float64)
    pages = [request == one for one in np.unique(request)]
    values = [
        roc_auc_score(data.click[rows][own], scores[own]) for own in pages if 0 < data.click[rows][own].mean() < 1
    ]
    assert sim_score_page_auc(world.table.vectors, data, "valid") == pytest.approx(np.mean(values), abs=1e-6)


def test_recall_equals_a_loop(data, world):
    unit = world.table.vectors / np.linalg.norm(world.table.vectors, axis=1, keepdims=True)
    rows = data.rows["valid"]
    rows = rows[(data.clicks_before[rows] > 0) & (data.click[rows] == 1)]
    hits = []
    for row, past in zip(rows, histories(data, rows), strict=True):
        order = np.argsort(-(unit @ unit[past].mean(axis=0)))
        hits.append(data.item[row] in order[:10])
    assert next_click_recall(world.table.vectors, data, "valid", k=10) == pytest.approx(np.mean(hits), abs=2e-3)


def test_planted_vectors_beat_random_ones_on_every_behavioural_proxy(data, world):
    planted, random = (proxies(t.vectors, np.ones(160, bool), data) for t in (world.table, world.random))
    assert planted["page AUC of SimScore"] > random["page AUC of SimScore"] + 0.1
    assert planted["recall@50 of the next click"] > random["recall@50 of the next click"]
    assert proxy_correlations([planted, random, planted, random], [0.2, 0.0, 0.3, 0.1])["page AUC of SimScore"] > 0.8
    assert proxy_correlations([planted], [0.2])["RankMe"] is None


def test_the_centred_proxy_is_that_of_a_table_centred_by_hand(data, world):
    cone = world.table.vectors + 9 * np.eye(1, world.table.vectors.shape[1], dtype=np.float32)
    directions = cone.astype(np.float64) / np.linalg.norm(cone.astype(np.float64), axis=1, keepdims=True)
    found = np.arange(160) != 3
    by_hand = (directions - directions[data.warm & found].mean(axis=0)) * found[:, None]
    raw, centred, _, _ = proxies(cone * found[:, None], found, data).values()
    assert centred == pytest.approx(sim_score_page_auc(by_hand, data, "valid"), abs=1e-4)
    assert abs(raw - centred) > 1e-3


def test_the_exchange_rate_is_the_slope_of_the_gains():
    measured = [dict.fromkeys(PROXIES, value) for value in (0.5, 0.6, 0.7, 0.8)]
    slope, low, high = exchange_rates(measured, [0.0, 0.011, 0.019, 0.03], 0.95)[PROXIES[0]]
    assert slope == pytest.approx(0.098) and low < 0.1 < high < 0.12
    assert exchange_rates(measured[:3], [0.0, 0.01, 0.02], 0.95)[PROXIES[0]] is None


@pytest.fixture(scope="module")
def popular(world_maker, tmp_path_factory):
    """A world whose items differ in popularity, which drifts."""
    folder = tmp_path_factory.mktemp("popular") / "dataset"
    return world_maker(folder, users=600, items=600, pages=20, taste=1.5, popularity=0.6, drift=0.2)


@pytest.fixture(scope="module")
def popular_data(popular):
    return load_ctr_data(popular.folder, DataSettings(history=20))


def flagged(table, data, **info):
    return probe(np.asarray(table, dtype=np.float32), np.ones(len(table), dtype=bool), data, info).reason


def test_tables_that_saw_test_labels_are_flagged(popular, popular_data):
    reasons = {name: flagged(table, popular_data) for name, table in leaky(popular_data, popular.table.vectors, 0)}
    assert all(reasons.values()), reasons
    assert "cosines with a user's clicks" in reasons["SVD of test clicks, 32"]
    assert "click rates" in reasons["click rate on test beside noise"]


def test_honest_tables_are_not_flagged(popular, popular_data, data, world):
    for name, table in honest(popular_data, popular.table.vectors, 0):
        assert flagged(table, popular_data) is None, name
    for vectors in (world.table.vectors, world.random.vectors):
        assert flagged(vectors, data) is None
    assert probe(world.table.vectors, np.arange(160) < 9, data).reason is None  # too few items to tell


def test_a_table_that_says_it_saw_the_test_period_is_flagged(popular, popular_data):
    dataset = replace(popular_data.dataset)
    dataset.__dict__["info"] = {**popular_data.dataset.info, "splits": {"test_start": 1000}}
    dataset.__dict__["impressions"] = popular_data.dataset.impressions
    data = replace(popular_data, dataset=dataset)
    assert flagged(popular.table.vectors, data, saw_until=999) is None
    assert "training data reach until 1000" in flagged(popular.table.vectors, data, saw_until=1000)
    assert flagged(popular.table.vectors, data, saw_until="unknown") is None
