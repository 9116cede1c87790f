"""The bootstrap against a plain loop over the same resamples, and its coverage on planted differences."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from downstream.statistics.intervals import (
    BootstrapSettings,
    Interval,
    bootstrap_metrics,
    detectable,
    holm,
    paired_interval,
    share_interval,
    user_counts,
)
from downstream.statistics.metrics import auc, gauc


def simulated(rng, users=40, impressions=600, signal=0.5):
    user = rng.integers(0, users, impressions)
    click = rng.integers(0, 2, impressions)
    score = np.round(1 / (1 + np.exp(-(signal * click + rng.normal(size=impressions)))), 2)  # rounded: ties
    return click, np.clip(score, 0.01, 0.99), user


def test_draws_equal_a_loop_that_repeats_the_users():
    click, score, user = simulated(np.random.default_rng(0))
    settings = BootstrapSettings(resamples=15, seed=3)
    draws = bootstrap_metrics(click, score, user, 45, settings)  # 5 users have no impressions in this slice
    for draw in range(settings.resamples):
        picked, copies, own = [], [], 0
        for one, count in enumerate(user_counts(45, draw, settings.seed)):
            for _ in range(count):
                picked.append(np.flatnonzero(user == one))
                copies.append(np.full(len(picked[-1]), own))
                own += 1
        rows, copy = np.concatenate(picked), np.concatenate(copies)
        assert draws["auc"][draw] == pytest.approx(roc_auc_score(click[rows], score[rows]), abs=1e-12)
        assert draws["gauc"][draw] == pytest.approx(gauc(click[rows], score[rows], copy), abs=1e-12)
        assert draws["log_loss"][draw] == pytest.approx(log_loss(click[rows], score[rows]), abs=1e-12)


def test_the_seed_decides_the_draws():
    data = simulated(np.random.default_rng(0))
    first, again, other = (
        bootstrap_metrics(*data, 40, BootstrapSettings(resamples=5, seed=seed))["gauc"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_model_does_not_differ_from_itself_and_seeds_widen_the_interval():
    settings = BootstrapSettings(resamples=200)
    draws = np.random.default_rng(0).normal(0.7, 0.01, (1, 200))
    same = paired_interval([0.7], [0.7], draws, draws, settings)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    spread = np.array([[0.01], [0.0], [-0.01]])
    wide = paired_interval([0.71, 0.7, 0.69], [0.7] * 3, draws + spread, np.repeat(draws, 3, axis=0), settings)
    assert wide.low < -0.004 and wide.high > 0.004 and wide.mean == pytest.approx(0)


def test_the_interval_of_a_share_covers_the_true_one():
    settings, rng, covered = BootstrapSettings(resamples=200), np.random.default_rng(0), 0
    for _ in range(200):
        whole = rng.normal(1.0, 0.1, 40)
        part = 0.6 * whole + rng.normal(0, 0.05, 40)  # paired: they rise and fall together
        draws = np.repeat(part[:, None], 200, axis=1), np.repeat(whole[:, None], 200, axis=1)
        found = share_interval(part, whole, *draws, settings)
        assert found.mean == pytest.approx(part.sum() / whole.sum())
        covered += found.low <= 0.6 <= found.high
    assert 0.89 <= covered / 200 <= 0.985
    same = share_interval(0.6 * whole, whole, 0.6 * draws[1], draws[1], settings)
    assert (same.low, same.high) == pytest.approx((0.6, 0.6))


def test_unequal_seeds_are_refused():
    with pytest.raises(ValueError, match="draws of shape"):
        paired_interval([0.7, 0.7], [0.7, 0.7], np.zeros((1, 5)), np.zeros((1, 5)), BootstrapSettings(resamples=5))


def test_intervals_cover_the_planted_difference():
    """Scores click * s + noise have AUC Phi(s / sqrt 2), so the true difference of two models is known."""
    from scipy.stats import norm

    rng = np.random.default_rng(7)
    settings = BootstrapSettings(resamples=100, level=0.9)
    truth = norm.cdf(0.8 / np.sqrt(2)) - norm.cdf(0.5 / np.sqrt(2))
    covered = 0
    for _ in range(60):
        user, click = np.repeat(np.arange(80), 6), rng.integers(0, 2, 480)
        shared = rng.normal(size=480)
        scores = [signal * click + 0.6 * shared + 0.8 * rng.normal(size=480) for signal in (0.8, 0.5)]
        scores = [1 / (1 + np.exp(-score)) for score in scores]
        draws = [bootstrap_metrics(click, score, user, 80, settings)["auc"][None] for score in scores]
        points = [[auc(click, score)] for score in scores]
        interval = paired_interval(*points, *draws, settings)
        covered += interval.low <= truth <= interval.high
    assert 46 <= covered <= 60  # 54 expected of 60; binomial standard deviation 2.3


def test_holm_rejects_step_by_step():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rejected, level = set(), 0.05  # the textbook's way: smallest first, until one is not below level / (tests left)
    for rank, place in enumerate(np.argsort(p)):
        if p[place] > level / (len(p) - rank):
            break
        rejected.add(int(place))
    assert rejected == {place for place, adjusted in enumerate(holm(p)) if adjusted < level}


def test_holm_keeps_the_chance_of_any_false_find():
    rng = np.random.default_rng(0)
    false = [min(holm(rng.random(12).tolist())) < 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(false) < 0.065


def test_a_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    effect = detectable(1.0, 0.95)
    assert np.mean(np.abs(rng.normal(effect, 1.0, 20_000)) > 1.96) == pytest.approx(0.8, abs=0.01)
    assert Interval(1.96, 0.0, 4.0, 1.0).p == pytest.approx(0.05, abs=1e-4)
