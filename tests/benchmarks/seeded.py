"""Trainings of several seeds on one dataset, and the intervals of their differences over seeds and users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.data.ctr_data import CTRData
from downstream.statistics.bootstrap import BootstrapSettings, bootstrap_metrics
from downstream.statistics.intervals import Cells, Interval, difference_interval
from downstream.statistics.metrics import all_metrics

BOOTSTRAP = BootstrapSettings(resamples=400)


def cells(data: CTRData, scores: Sequence[np.ndarray]) -> dict[str, Cells]:
    """Metric -> the trainings of seeds 0, 1, ... by their scores of the test split."""
    rows = data.rows["test"]
    click = data.click[rows]
    people, user = np.unique(data.user[rows], return_inverse=True)
    values = [all_metrics(click, own, user) for own in scores]
    drawn = bootstrap_metrics(click, np.stack(scores), user, len(people), BOOTSTRAP)
    seeds = np.arange(len(scores))
    return {
        name: Cells(
            np.array([own[name] for own in values]),
            drawn[name],
            np.zeros_like(seeds),
            seeds,
            len(people),
        )
        for name in values[0]
    }


def difference(ours: dict[str, Cells], theirs: dict[str, Cells], metric: str) -> Interval:
    """The interval of ours - theirs in a metric."""
    return difference_interval(ours[metric], theirs[metric], BOOTSTRAP)


def shown(interval: Interval) -> str:
    """A difference and its interval, in thousandths."""
    mean, low, high = (1000 * one for one in (interval.mean, interval.low, interval.high))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
