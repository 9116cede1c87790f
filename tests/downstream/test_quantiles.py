"""The quantile of sums of variances against exact coverage, by quadrature over the estimated variance."""

import numpy as np
import pytest
from scipy.stats import t

from downstream.statistics.quantiles import Training, quantile
from tests.benchmarks.coverage import DESIGNS, RULES, coverage, excluded, measured, starred


@pytest.mark.parametrize("df", [1, 2, 4])
def test_the_truth_is_outside_as_often_as_said_at_every_ratio_of_the_variances(df):
    at_95 = excluded(quantile, df, 0.025, nodes=200)
    assert at_95.min() > 0.6 and at_95.max() < 1.2  # 94 to 97 %
    assert excluded(quantile, df, 0.0005, nodes=200).max() < 1.8


def test_the_usual_quantiles_promise_too_much():
    """So that the test above can fail: Satterthwaite at 95 %, Cochran beyond."""
    assert excluded(RULES["Satterthwaite"], 1, 0.025, nodes=100).max() > 2
    assert excluded(RULES["Cochran"], 1, 0.0005, nodes=100).max() > 4


@pytest.mark.parametrize("tail", [0.4, 0.025, 1e-6, 1e-40])
def test_one_part_alone_has_students_quantile(tail):
    assert quantile(Training(), 2.0, 31, tail) == pytest.approx(t.isf(tail, 30), rel=1e-6)
    for part in (Training(2.0, [(2.0, 3)]), Training(2.0, [(2.0, 3), (1e-60, 4)])):
        assert quantile(part, 1e-12, 31, tail) == pytest.approx(t.isf(tail, 3), rel=0.02)


def test_the_quantile_rises_as_the_tail_shrinks_and_as_less_is_known():
    tails = np.geomspace(0.499, 1e-30, 60)
    for training in (Training(1.0, [(1.0, 1)]), Training(1.5, [(1.0, 2), (0.7, 4)], 8), Training(2.0, [(1.0, 1)] * 2)):
        for of_users in (0.0, 0.3, 3.0, 300.0):
            found = [quantile(training, of_users, 200, tail) for tail in tails]
            assert (np.diff(found) > 0).all()
    by_encoders = [quantile(Training(1.0, [(1.0, df)]), 1.0, 200, 0.025) for df in (1, 2, 4, 8)]
    assert by_encoders == sorted(by_encoders, reverse=True)


def test_two_parts_alike_are_pooled():
    """Two independent sources of two encoders each and equal variance: two degrees of freedom in all."""
    assert quantile(Training(2.0, [(1.0, 1), (1.0, 1)]), 0.0, 200, 0.025) == pytest.approx(t.isf(0.025, 2), rel=0.1)


@pytest.mark.parametrize("number", [6, 44, 70])
def test_many_worlds_at_once_cover_as_the_intervals_of_each(number):
    one = coverage([DESIGNS[number]], worlds=300, resamples=100, users=100)[0]["coverage"]
    many = measured(number, DESIGNS[number], worlds=1000, users=100)["coverage"]
    assert one == pytest.approx(many, abs=0.04) and 0.92 < many < 0.98


def test_reports_without_a_difference_rarely_show_a_star_however_much_encoders_differ():
    for ratio in (0.3, 3, 15):
        assert starred(3, 3, 2, ratio, 1000)[1] <= 0.065
