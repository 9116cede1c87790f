"""Metrics against scikit-learn and a loop over users, ties and all."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from data_tools.measures.group_auc import group_auc, page_auc
from downstream.statistics.metrics import (
    all_metrics,
    auc,
    calibration,
    gauc,
    log_loss,
    ndcg,
)

rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=60
)  # few scores and users, so that ties and one-class users are common


def columns(listed):
    click, score, user = (np.array(column) for column in zip(*listed, strict=True))
    return click, score.astype(np.float32), user


def loop_gauc(click, score, user, weight):
    total = norm = 0.0
    for one in np.unique(user):
        own = user == one
        if len(np.unique(click[own])) == 2:
            n = {"impressions": own.sum(), "clicks": click[own].sum(), "equal": 1}[weight]
            total += n * roc_auc_score(click[own], score[own])
            norm += n
    return total / norm if norm else None


@given(rows)
def test_auc_equals_scikit_learn(listed):
    click, score, _ = columns(listed)
    if len(np.unique(click)) < 2:
        with pytest.raises(ValueError, match="one class"):
            auc(click, score)
    else:
        assert auc(click, score) == pytest.approx(roc_auc_score(click, score), abs=1e-12)


@given(rows, st.sampled_from(["impressions", "clicks", "equal"]))
def test_gauc_equals_the_loop_over_users(listed, weight):
    click, score, user = columns(listed)
    expected = loop_gauc(click, score, user, weight)
    if expected is None:
        with pytest.raises(ValueError, match="no group"):
            gauc(click, score, user, weight)
    else:
        assert gauc(click, score, user, weight) == pytest.approx(expected, abs=1e-12)


@given(rows)
def test_groups_without_both_labels_have_no_auc(listed):
    click, score, user = columns(listed)
    grouped = group_auc(click, score, user)
    assert np.array_equal(np.isnan(grouped.auc), ~grouped.defined)
    assert grouped.impressions.sum() == len(click) and grouped.clicks.sum() == click.sum()


def test_log_loss_equals_scikit_learn():
    rng = np.random.default_rng(0)
    click, probability = rng.integers(0, 2, 500), rng.uniform(0.01, 0.99, 500)
    assert log_loss(click, probability) == pytest.approx(sklearn_log_loss(click, probability), rel=1e-12)


@given(rows, st.integers(1, 6))
def test_ndcg_equals_scikit_learn_page_by_page(listed, k):
    click, score, page = columns(listed)
    values = []
    for one in np.unique(page[click == 1]):
        own = page == one
        alone = own.sum() == 1  # scikit-learn refuses a page of one item, which is ranked perfectly
        values.append(1.0 if alone else ndcg_score(click[None, own], score[None, own], k=k))
    if values:
        assert ndcg(click, score, page, k) == pytest.approx(np.mean(values), abs=1e-12)
    else:
        with pytest.raises(ValueError, match="no page view"):
            ndcg(click, score, page, k)


def test_calibration_equals_scikit_learn_and_finds_a_planted_error():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.6, 20_000)
    click = (rng.random(20_000) < truth).astype(int)
    found = calibration(click, truth, bins=10)
    observed, predicted = calibration_curve(click, truth, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-3)
    np.testing.assert_allclose(found.observed, observed, atol=2e-3)
    assert found.impressions.sum() == 20_000 and found.error < 0.02
    assert calibration(click, truth + 0.1, bins=10).error == pytest.approx(0.1, abs=0.02)


def test_text_ids_and_the_within_page_mean():
    click, score = np.array([1, 0, 1, 0, 0, 1]), np.array([2.0, 1, 1, 1, 3, 0])
    page = np.array(["a", "a", "b", "b", "c", "c"])
    assert page_auc(click, score, page) == pytest.approx((1 + 0.5 + 0) / 3)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="other than 0 and 1"):
        auc(np.array([0, 2]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0, 1]), np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="shapes"):
        gauc(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1]))
    with pytest.raises(ValueError, match="weight"):
        gauc(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 1]), weight="users")


def test_undefined_metrics_are_none():
    values = all_metrics(np.zeros(3, dtype=int), np.full(3, 0.5), np.arange(3))
    assert values["auc"] is None and values["gauc"] is None and values["log_loss"] == pytest.approx(np.log(2))


def test_a_hundred_thousand_users_take_less_than_a_second():
    rng = np.random.default_rng(0)
    click, score = rng.integers(0, 2, 1_000_000), rng.random(1_000_000)
    user = rng.integers(0, 100_000, 1_000_000)
    start = time.process_time()
    gauc(click, score, user)
    assert time.process_time() - start < 1.0
