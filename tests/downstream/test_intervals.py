"""The bootstrap against a plain loop over the same resamples, and its coverage on planted differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel
from sklearn.metrics import log_loss, roc_auc_score

from downstream.statistics.bootstrap import BootstrapSettings, bootstrap_metrics, user_counts
from downstream.statistics.intervals import Cells, contrast_interval, difference_interval, holm, share_interval
from downstream.statistics.metrics import auc, gauc
from tests.benchmarks.coverage import DESIGNS, coverage, false_reports


def simulated(rng, users=40, impressions=600, signal=0.5):
    user = rng.integers(0, users, impressions)
    click = rng.integers(0, 2, impressions)
    score = np.round(1 / (1 + np.exp(-(signal * click + rng.normal(size=impressions)))), 2)  # rounded: ties
    return click, np.clip(score, 0.01, 0.99), user


def test_draws_equal_a_loop_that_repeats_the_users():
    click, score, user = simulated(np.random.default_rng(0))
    settings = BootstrapSettings(resamples=15, seed=3)
    draws = bootstrap_metrics(click, np.stack([1 - score, score]), user, 45, settings)  # 5 users have no impressions
    for draw in range(settings.resamples):
        picked, copies, own = [], [], 0
        for one, count in enumerate(user_counts(45, draw, settings.seed)):
            for _ in range(count):
                picked.append(np.flatnonzero(user == one))
                copies.append(np.full(len(picked[-1]), own))
                own += 1
        rows, copy = np.concatenate(picked), np.concatenate(copies)
        assert draws["auc"][1, draw] == pytest.approx(roc_auc_score(click[rows], score[rows]), abs=1e-12)
        assert draws["gauc"][1, draw] == pytest.approx(gauc(click[rows], score[rows], copy), abs=1e-12)
        assert draws["log_loss"][1, draw] == pytest.approx(log_loss(click[rows], score[rows]), abs=1e-12)


def test_the_seed_decides_the_draws():
    click, score, user = simulated(np.random.default_rng(0))
    first, again, other = (
        bootstrap_metrics(click, score[None], user, 40, BootstrapSettings(resamples=5, seed=seed))["gauc"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def cells(values, encoder=None, seed=None, draws=None, users=100):
    values = np.asarray(values, dtype=float)
    zeros = np.zeros(len(values), dtype=int)
    spread = np.random.default_rng(0).normal(0, 0.01, 200)[None]
    return Cells(
        values,
        values[:, None] + spread if draws is None else draws,
        zeros if encoder is None else np.asarray(encoder),
        np.arange(len(values)) if seed is None else np.asarray(seed),
        users,
    )


def test_a_model_does_not_differ_from_itself_and_seeds_widen_the_interval():
    settings = BootstrapSettings(resamples=200)
    same = difference_interval(cells([0.7, 0.7]), cells([0.7, 0.7]), settings)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    wide = difference_interval(cells([0.71, 0.7, 0.69]), cells([0.7] * 3), settings)
    assert wide.low < -0.004 and wide.high > 0.004 and wide.mean == pytest.approx(0)


def test_training_noise_alone_gives_the_textbooks_t_interval():
    """Without users' noise: Student's t over the CTR seeds, or over the means of the encoders."""
    settings, rng = BootstrapSettings(resamples=200), np.random.default_rng(3)
    ours, theirs = rng.normal(size=(2, 6))
    constant = [cells(own, draws=np.repeat(own[:, None], 200, axis=1)) for own in (ours, theirs)]
    found, expected = difference_interval(*constant, settings), ttest_rel(ours, theirs)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == pytest.approx(expected.pvalue)
    encoder = np.array([0, 1, 2, 0, 1, 0])
    nested = cells(ours, encoder, draws=np.repeat(ours[:, None], 200, axis=1))
    differences = ours - theirs
    means = [differences[encoder == one].mean() for one in range(3)]
    found, expected = difference_interval(nested, constant[1], settings), ttest_1samp(means, 0)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == pytest.approx(expected.pvalue) and found.encoders == 3


def test_crossed_seeds_have_the_variance_of_the_two_way_analysis():
    """sigma_e^2 / E + sigma_s^2 / C + sigma^2 / EC, each component from the textbook's mean squares."""
    grid = np.random.default_rng(4).normal(size=(3, 4)) + np.arange(3)[:, None] + 2 * np.arange(4)
    encoder, seed = (axis.ravel() for axis in np.indices(grid.shape))
    own = cells(grid.ravel(), encoder, seed, np.repeat(grid.reshape(-1, 1), 200, axis=1))
    ground = cells(np.zeros(4), draws=np.zeros((4, 200)))
    rows, columns = grid.mean(axis=1), grid.mean(axis=0)
    ms_e, ms_s = 4 * rows.var(ddof=1), 3 * columns.var(ddof=1)
    ms = ((grid - rows[:, None] - columns + grid.mean()) ** 2).sum() / 6
    variance = (ms_e - ms) / 4 / 3 + (ms_s - ms) / 3 / 4 + ms / 12
    assert difference_interval(own, ground, BootstrapSettings(resamples=200)).spread == pytest.approx(variance**0.5)


def test_users_and_trainings_are_each_counted_once():
    """The expected variance over many planted worlds is the true one, however much users differ between cells."""
    rng, found, users, n = np.random.default_rng(5), [], 150, 4
    counts = np.stack([user_counts(users, draw, 0) for draw in range(100)]).T / users
    for _ in range(300):
        own = rng.normal(0, 0.5, n)[:, None] + rng.normal(0, users**0.5, (n, users))  # training, user x cell
        both = own + rng.normal(0, users**0.5, users)
        ours = cells(both.mean(axis=1), draws=both @ counts, users=users)
        theirs = cells(np.zeros(n), draws=np.zeros((n, 100)), users=users)
        found.append(difference_interval(ours, theirs, BootstrapSettings(resamples=100)).spread ** 2)
    assert np.mean(found) == pytest.approx(0.25 / n + 1 / n + 1, rel=0.06)


def test_one_user_gives_no_interval():
    found = difference_interval(cells([0.7, 0.8], users=1), cells([0.6, 0.7], users=1), BootstrapSettings())
    assert found.mean == pytest.approx(0.1) and np.isnan([found.low, found.high, found.p]).all()


def test_sources_with_different_numbers_of_encoders_are_independent():
    settings = BootstrapSettings(resamples=200)
    rng = np.random.default_rng(6)
    ours, theirs = cells(rng.normal(size=6), [0, 1, 2] * 2), cells(rng.normal(size=6), [0, 1] * 3)
    ours, theirs = (replace(one, draws=np.repeat(one.values[:, None], 200, axis=1)) for one in (ours, theirs))
    expected = 0.0
    for one in (ours, theirs):
        means = [one.values[one.encoder == encoder].mean() for encoder in np.unique(one.encoder)]
        expected += np.var(means, ddof=1) / len(means)
    assert difference_interval(ours, theirs, settings).spread == pytest.approx(expected**0.5)


def test_the_interval_of_a_share_covers_the_true_one_and_agrees_with_the_test():
    settings, rng, covered = BootstrapSettings(resamples=100), np.random.default_rng(0), 0
    counts = np.stack([user_counts(80, draw, 0) for draw in range(100)]).T / 80
    for _ in range(200):
        top = 1 + rng.normal(0, 0.1, 5)[:, None] + rng.normal(0, 1, 80)
        part = 0.6 * top + rng.normal(0, 0.05, 5)[:, None] + rng.normal(0, 0.5, 80)
        part, top, ground = (cells(x.mean(axis=1), draws=x @ counts, users=80) for x in (part, top, 0 * top))
        found = share_interval(part, top, ground, settings)
        assert found.mean == pytest.approx(part.values.mean() / top.values.mean())
        covered += found.low <= 0.6 <= found.high
    assert 0.9 <= covered / 200 <= 0.99
    at_the_end = contrast_interval([(1, part), (-found.high, top), (found.high - 1, ground)], settings)
    assert at_the_end.p == pytest.approx(0.05, abs=1e-4)


def test_cells_without_a_common_seed_are_refused():
    with pytest.raises(ValueError, match="no cell with encoder and seed"):
        difference_interval(cells([0.7, 0.7], seed=[0, 1]), cells([0.7], seed=[2]), BootstrapSettings(resamples=200))


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
        draws = bootstrap_metrics(click, np.stack(scores), user, 80, settings)["auc"]
        points = [[auc(click, score)] for score in scores]
        sides = (cells(point, draws=own[None], users=80) for point, own in zip(points, draws, strict=True))
        interval = difference_interval(*sides, settings)
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


def test_weighted_holm_gives_a_declared_test_its_own_share():
    p, weights = [0.03, 0.004, 0.5], [1.0, 0.5, 0.5]
    assert holm(p, weights) == pytest.approx([0.045, 0.016, 0.5])  # .004 / .5 x 2, then .03 x 1.5, then .5
    rng = np.random.default_rng(0)
    false = [min(holm(rng.random(5).tolist(), [1, 0.25, 0.25, 0.25, 0.25])) < 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(false) < 0.065


def test_a_detectable_difference_is_found_four_times_in_five():
    rng, found = np.random.default_rng(0), []
    counts = np.stack([user_counts(200, draw, 0) for draw in range(200)]).T / 200
    for effect in (0.0, 2.8):
        own = [rng.normal(effect, 200**0.5, 200)[None] for _ in range(400)]
        sides = [cells(x.mean(axis=1), draws=x @ counts, users=200) for x in own]
        ground = cells([0.0], draws=np.zeros((1, 200)), users=200)
        found.append([difference_interval(side, ground, BootstrapSettings(resamples=200)) for side in sides])
    assert np.mean([one.detectable for one in found[0]]) == pytest.approx(2.8, abs=0.1)
    assert np.mean([one.low > 0 for one in found[1]]) == pytest.approx(0.8, abs=0.06)


@pytest.mark.slow
def test_a_short_run_of_the_coverage_program():
    """Nominal 95 % in a few designs; the whole table is in tests/benchmarks/coverage.py."""
    for row in coverage(DESIGNS[::4], worlds=250, resamples=80, users=120):
        assert 0.905 <= row["coverage"] <= 0.99, row
    assert false_reports(worlds=40, resamples=80, users=120)["any star"] <= 0.125
