"""Measures against scikit-learn and loops, on numpy arrays and on tensors."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from data_tools.measures import simscore
from data_tools.measures.effective_rank import effective_rank
from data_tools.measures.group_auc import group_auc, page_auc
from data_tools.measures.simscore import mean_history, sim_scores
from data_tools.measures.spread import mean_and_spread

LIBRARIES = [np.asarray, torch.from_numpy]


def unit_vectors(count, size):
    vectors = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_page_auc_is_the_mean_of_scikit_learns_over_page_views():
    rng = np.random.default_rng(1)
    request, score, click = rng.integers(0, 40, 300), rng.integers(0, 4, 300) / 4, rng.random(300) < 0.3
    own = [request == one for one in np.unique(request)]
    expected = [roc_auc_score(click[page], score[page]) for page in own if len(set(click[page])) == 2]
    assert page_auc(click, score, request) == pytest.approx(np.mean(expected), abs=1e-12)
    assert group_auc(click, score, request).defined.sum() == len(expected)


def test_page_auc_without_both_labels_is_undefined():
    with pytest.raises(ValueError, match="undefined"):
        page_auc(np.array([1, 1, 0]), np.array([0.1, 0.2, 0.3]), np.array([0, 0, 1]))


@pytest.mark.parametrize("made", LIBRARIES)
def test_effective_rank_of_known_spectra(made):
    assert effective_rank(made(np.eye(6, dtype=np.float32))) == pytest.approx(6.0, rel=1e-5)
    assert effective_rank(made(np.full((10, 4), 0.5, dtype=np.float32))) == pytest.approx(1.0, abs=1e-3)
    share = np.array([3.0, 1.0]) / 4  # of singular values 3 and 1
    rows = np.repeat(np.eye(2, dtype=np.float32), [9, 1], axis=0)
    assert effective_rank(made(rows)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 1 << 24])
@pytest.mark.parametrize("made", LIBRARIES)
def test_sim_score_is_the_mean_cosine_with_the_history(made, at_once, monkeypatch):
    monkeypatch.setattr(simscore, "AT_ONCE", at_once)
    unit = unit_vectors(7, 4)
    history, page = np.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1]]), np.array([[3, 4], [0, 6], [1, 2]])
    found = np.asarray(sim_scores(made(unit), made(history), made(page)))
    for row in range(3):
        clicked = [item for item in history[row] if item >= 0]
        for slot, item in enumerate(page[row]):
            cosines = [float(unit[item].astype(np.float64) @ unit[one]) for one in clicked]
            assert found[row, slot] == pytest.approx(np.mean(cosines) if cosines else 0, abs=1e-6)
    np.testing.assert_allclose(np.asarray(mean_history(made(unit), made(history)))[1], unit[2])


def test_mean_and_spread():
    assert mean_and_spread([0.5]) == "0.5000"
    assert mean_and_spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert mean_and_spread([1.0, None]) == mean_and_spread([]) == "–"
