"""Paired bootstrap over users: how far a difference between two models could be chance.

Users, not impressions, are drawn with replacement, because the impressions of one user are not independent. Draw r of
a bootstrap is the same for every model (a function of the seed and r alone), so the distribution of a difference is
the difference of two distributions, and each model is sorted once. Where a model was trained with several seeds, each
draw also draws seeds with replacement, so that the spread over seeds is in the interval. With few seeds that spread
is itself poorly known: the bootstrap shows (S - 1) / S of the variance of a mean over S seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from data_tools.measures.group_auc import group_auc
from downstream.statistics.metrics import click_loss

METRICS = ("auc", "gauc", "log_loss")


@dataclass(frozen=True)
class BootstrapSettings:
    """The resampling of users and seeds.

    Attributes
    ----------
    resamples : number of bootstrap draws
    level : coverage of the intervals, between 0 and 1
    seed : of the draws
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval.

    Attributes
    ----------
    mean, low, high : the mean and the ends of its interval
    spread : standard deviation of the bootstrap draws, the standard error of the mean
    """

    mean: float
    low: float
    high: float
    spread: float = 0.0

    @property
    def p(self) -> float:
        """Two-sided p-value of a mean of zero, were the draws normal with this spread."""
        if self.spread == 0:
            return float(self.mean == 0)
        return float(2 * norm.sf(abs(self.mean) / self.spread))


def user_counts(users: int, draw: int, seed: int) -> np.ndarray:
    """How often each of ``users`` users is in bootstrap draw ``draw``: int64 (users,), summing to ``users``."""
    drawn = np.random.default_rng([seed, draw]).integers(users, size=users)
    return np.bincount(drawn, minlength=users)


def bootstrap_metrics(
    click: np.ndarray, probability: np.ndarray, user: np.ndarray, users: int, settings: BootstrapSettings
) -> dict[str, np.ndarray]:
    """AUC, GAUC (impression-weighted) and log loss of every bootstrap draw.

    Parameters
    ----------
    click, probability, user : (N,); users are integers in [0, users)
    users : the population that is drawn from; give the same for every model and slice that is compared

    Returns
    -------
    dict of float64 arrays (resamples,), nan in a draw that lacks one class
    """
    click = np.asarray(click).astype(bool)
    grouped = group_auc(click, probability, user)
    gauc_users = grouped.group[grouped.defined]
    gauc_weight = grouped.impressions[grouped.defined]
    gauc_sum = gauc_weight * grouped.auc[grouped.defined]
    loss_sum = np.bincount(user, weights=click_loss(click, probability), minlength=users)
    impressions = np.bincount(user, minlength=users)

    # A weighted AUC needs, below each click's score, the weight of the non-clicks: one sort of the non-clicks for all
    # draws; only their cumulated weight changes. A tie counts half, hence the mean of the two ends of the tie.
    order = np.argsort(probability[~click], kind="stable")
    sorted_scores, sorted_users = probability[~click][order], user[~click][order]
    below = np.searchsorted(sorted_scores, probability[click], side="left")
    not_above = np.searchsorted(sorted_scores, probability[click], side="right")
    click_users = user[click]

    draws = {metric: np.full(settings.resamples, np.nan) for metric in METRICS}
    cumulated = np.zeros(len(sorted_users) + 1)
    for draw in range(settings.resamples):
        count = user_counts(users, draw, settings.seed).astype(np.float64)
        np.cumsum(count[sorted_users], out=cumulated[1:])
        weight = count[click_users]
        pairs = weight.sum() * cumulated[-1]
        if pairs:
            draws["auc"][draw] = weight @ (cumulated[below] + cumulated[not_above]) / (2 * pairs)
        if total := count[gauc_users] @ gauc_weight:
            draws["gauc"][draw] = count[gauc_users] @ gauc_sum / total
        if total := count @ impressions:
            draws["log_loss"][draw] = count @ loss_sum / total
    return draws


def paired_interval(
    a: np.ndarray, b: np.ndarray, a_draws: np.ndarray, b_draws: np.ndarray, settings: BootstrapSettings
) -> Interval:
    """The difference a - b of a metric, averaged over seeds, with its percentile interval.

    Parameters
    ----------
    a, b : the metric of each seed on the users as they are (S,); seed k of one is paired with seed k of the other
    a_draws, b_draws : the metric of each seed in each bootstrap draw (S, resamples)

    Raises
    ------
    ValueError
        If the two have different numbers of seeds, or no draw is defined.
    """
    difference = np.asarray(a) - np.asarray(b)
    drawn = _over_seeds(np.asarray(a_draws) - np.asarray(b_draws), len(difference), settings)
    return _percentiles(float(difference.mean()), drawn, settings)


def share_interval(
    part: np.ndarray, whole: np.ndarray, part_draws: np.ndarray, whole_draws: np.ndarray, settings: BootstrapSettings
) -> Interval:
    """How much of one difference another is, mean over seeds by mean over seeds, with its percentile interval.

    Parameters
    ----------
    part, whole : differences of each seed on the users as they are (S,), paired
    part_draws, whole_draws : the same in each bootstrap draw (S, resamples)

    Raises
    ------
    ValueError
        If the two have different numbers of seeds, or no draw is defined.
    """
    of_part, of_whole = (_over_seeds(np.asarray(own), len(part), settings) for own in (part_draws, whole_draws))
    return _percentiles(float(np.mean(part) / np.mean(whole)), of_part / of_whole, settings)


def _over_seeds(draws: np.ndarray, seeds: int, settings: BootstrapSettings) -> np.ndarray:
    """Mean over as many seeds as there are, drawn anew in each bootstrap draw: (S, resamples) -> (resamples,)."""
    if draws.shape != (seeds, settings.resamples):
        raise ValueError(f"draws of shape {draws.shape}; ({seeds}, {settings.resamples}) is expected")
    drawn = np.random.default_rng(settings.seed).integers(seeds, size=(seeds, settings.resamples))
    return np.take_along_axis(draws, drawn, axis=0).mean(axis=0)


def _percentiles(mean: float, drawn: np.ndarray, settings: BootstrapSettings) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        raise ValueError("no bootstrap draw has both labels; the slice is too small for an interval")
    tail = (1 - settings.level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), float(drawn.std()))


def holm(p: list[float]) -> list[float]:
    """p-values of a family of tests, adjusted as Holm (1979) does, in the order given.

    To reject all that are below a level keeps the chance of any false one below that level, whatever depends on what.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def detectable(spread: float, level: float, power: float = 0.8) -> float:
    """The smallest true difference that an interval of ``level`` leaves zero out of with probability ``power``.

    (z_{(1 + level) / 2} + z_power) x spread, for normal draws (the textbook minimum detectable effect).
    """
    return float((norm.ppf((1 + level) / 2) + norm.ppf(power)) * spread)
