"""Proxies against loops, and leaks planted and honest."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from downstream.comparison.leaks import probe
from downstream.comparison.proxies import next_click_recall, proxies, proxy_correlations, sim_score_page_auc
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings


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
    assert proxy_correlations([planted], [0.2])["effective rank"] is None


def test_the_centred_proxy_is_that_of_a_table_centred_by_hand(data, world):
    cone = world.table.vectors + 9 * np.eye(1, world.table.vectors.shape[1], dtype=np.float32)
    directions = cone.astype(np.float64) / np.linalg.norm(cone.astype(np.float64), axis=1, keepdims=True)
    found = np.arange(160) != 3
    by_hand = (directions - directions[data.warm & found].mean(axis=0)) * found[:, None]
    raw, centred, _, _ = proxies(cone * found[:, None], found, data).values()
    assert centred == pytest.approx(sim_score_page_auc(by_hand, data, "valid"), abs=1e-4)
    assert abs(raw - centred) > 1e-3


def rates(data, splits):
    rows = np.concatenate([data.rows[split] for split in splits])
    shown = np.bincount(data.item[rows], minlength=160)
    return np.bincount(data.item[rows], weights=data.click[rows], minlength=160) / np.maximum(shown, 1)


def test_a_table_that_knows_the_test_labels_is_flagged(data, world):
    found = np.ones(160, dtype=bool)
    for splits in (["test"], ["valid", "test"]):
        cheat = np.column_stack([world.random.vectors, rates(data, splits)])
        assert "correlation" in probe(cheat, found, data).reason


def test_honest_tables_are_not_flagged(data, world):
    found = np.ones(160, dtype=bool)
    known = np.column_stack([world.table.vectors, rates(data, ["train"])])
    for vectors in (world.table.vectors, world.random.vectors, known):
        assert probe(vectors, found, data).reason is None
    assert probe(world.table.vectors, np.arange(160) < 9, data).reason is None  # too few items to tell
