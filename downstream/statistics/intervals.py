"""Intervals of differences between models whose encoders, CTR trainings and users are all drawn from many.

A metric of the cell with encoder e (pre-training seed) and CTR training c is, on the test users at hand,

    y_ec = mu + encoder_e + training_ec (+ seed_c where every encoder is run with the same CTR seeds) + users_ec

A difference of two sources is taken cell by cell where both have the same cells, so that what a CTR seed does to both
cancels; sources with different numbers of encoders are independent. The estimate is the mean over encoders of the mean
over their CTR trainings. Its variance has two parts, each counted once:

- Training: the analysis of variance between encoders, which contains the trainings within them (one-way random
  effects; the variance of E encoder means over E is unbiased however many trainings each has; Searle, Casella and
  McCulloch 1992, chapter 3); with crossed seeds, the two-way one, (MS_encoders + MS_seeds - MS_residual) / EC, and at
  least the larger of MS_encoders / EC and MS_seeds / EC, since neither component is below zero.
- Users: the bootstrap variance, over users, of the estimate, all cells fixed (draws of users are the same for every
  cell), less what the same draws put between the cells: those mean squares hold it already.

The quantile is that of :mod:`downstream.statistics.quantiles`.

With one encoder the interval is conditional on it; with one cell, on that training, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from downstream.statistics.bootstrap import BootstrapSettings
from downstream.statistics.quantiles import Training, quantile

SMALLEST = -150.0  # logarithm of the smallest p-value that is kept apart from 0


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; NaN where there is none.

    Attributes
    ----------
    mean, low, high : float
        The mean and the ends of its interval.
    spread : float
        Standard error of the mean.
    p : float
        Two-sided p-value of a mean of zero.
    detectable : float
        The smallest true mean that would be found, its interval excluding zero, four times in five.
    encoders, trainings : int
        Encoders and CTR trainings that the training part rests on; the interval is conditional on a single one.
    """

    mean: float
    low: float
    high: float
    spread: float = np.nan
    p: float = np.nan
    detectable: float = np.nan
    encoders: int = 1
    trainings: int = 1


@dataclass(frozen=True)
class Cells:
    """One metric of the cells of one source: one entry a cell.

    Attributes
    ----------
    values : float64 (n,)
        On the users as they are.
    draws : float64 (n, resamples)
        In each bootstrap draw of users in which the metric is defined for all cells.
    encoder, seed : int (n,)
        Pre-training seed, 0 where there is none, and CTR seed.
    users : int
        Users that the metric rests on.
    """

    values: np.ndarray
    draws: np.ndarray
    encoder: np.ndarray
    seed: np.ndarray
    users: int

    @property
    def encoders(self) -> int:
        """Number of encoders."""
        return len(np.unique(self.encoder))

    def at(self, encoder: np.ndarray, seed: np.ndarray) -> Cells:
        """The cells with these encoders and seeds; a single encoder counts for any.

        Raises
        ------
        ValueError
            If there is no such cell.
        """
        own = self.encoder if self.encoders > 1 else np.zeros_like(self.encoder)
        wanted = encoder if self.encoders > 1 else np.zeros_like(encoder)
        place = {key: number for number, key in enumerate(zip(own.tolist(), self.seed.tolist(), strict=True))}
        try:
            rows = [place[key] for key in zip(wanted.tolist(), seed.tolist(), strict=True)]
        except KeyError as missing:
            raise ValueError(f"no cell with encoder and seed {missing}") from None
        return Cells(self.values[rows], self.draws[rows], encoder, seed, self.users)

    def same_design(self, other: Cells) -> bool:
        """Whether both have the same encoders and seeds."""
        keys = [sorted(zip(one.encoder.tolist(), one.seed.tolist(), strict=True)) for one in (self, other)]
        return keys[0] == keys[1]


Terms = Sequence[tuple[float, Cells]]  # a contrast: weight and cells of each source


def _summed(terms: Terms, encoder: np.ndarray, seed: np.ndarray) -> Cells:
    """The weighted sum of sources, cell by cell."""
    own = [(weight, cells.at(encoder, seed)) for weight, cells in terms]
    values = sum(weight * cells.values for weight, cells in own)
    draws = sum(weight * cells.draws for weight, cells in own)
    return Cells(values, draws, encoder, seed, min(cells.users for _, cells in own))


def _independent_parts(terms: Terms) -> list[Cells]:
    """The contrast as parts whose training noise is independent: one where all sources can be paired cell by cell."""
    several = [cells for _, cells in terms if cells.encoders > 1]
    design = several[0] if several else min((cells for _, cells in terms), key=lambda cells: len(cells.values))
    if all(cells.same_design(design) for cells in several):
        return [_summed(terms, design.encoder, design.seed)]
    parts = [_summed([(weight, cells)], cells.encoder, cells.seed) for weight, cells in terms if cells.encoders > 1]
    rest = [(weight, cells) for weight, cells in terms if cells.encoders == 1]
    return parts + ([_summed(rest, rest[0][1].encoder, rest[0][1].seed)] if rest else [])


def _encoder_weights(cells: Cells) -> np.ndarray:
    """Weight of each cell in the mean over encoders of the mean over their trainings: float64 (n,)."""
    _, which, counts = np.unique(cells.encoder, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[which])


def _mean_squares(cells: Cells, values: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Mean squares, each over the number of cells, and their degrees of freedom.

    Parameters
    ----------
    values : float64 (n, ...)

    Returns
    -------
    list of (float64 (...), int)
        Between encoders, or between the trainings of a single one, unbiased for the variance of the mean that training
        causes; with crossed seeds between encoders, between seeds and the residual. Empty for one cell.
    """
    encoders, which = np.unique(cells.encoder, return_inverse=True)
    if len(encoders) == 1:
        n = len(values)
        return [(values.var(axis=0, ddof=1) / n, n - 1)] if n > 1 else []
    seeds, column = np.unique(cells.seed, return_inverse=True)
    e, c = len(encoders), len(seeds)
    if len(values) != e * c or c == 1:
        means = np.stack([values[which == one].mean(axis=0) for one in range(e)])
        return [(means.var(axis=0, ddof=1) / e, e - 1)]
    grid = np.empty((e, c, *values.shape[1:]))
    grid[which, column] = values
    rows, columns = grid.mean(axis=1), grid.mean(axis=0)
    residual = grid - rows[:, None] - columns[None] + grid.mean(axis=(0, 1))
    own = (e - 1) * (c - 1)
    left_over = (residual**2).sum(axis=(0, 1)) / own / (e * c)
    return [(rows.var(axis=0, ddof=1) / e, e - 1), (columns.var(axis=0, ddof=1) / c, c - 1), (left_over, own)]


def _training(cells: Cells) -> Training:
    """What training contributes to the variance of the mean."""
    found = [(float(own), df) for own, df in _mean_squares(cells, cells.values)]
    if len(found) < 3:
        return Training(sum(own for own, _ in found), found)
    (encoders, _), (seeds, _), (residual, df) = found
    return Training(max(encoders, seeds, encoders + seeds - residual), found[:2], df)


def _users_in_training(cells: Cells) -> float:
    """What the users of the bootstrap draws put into the variance of training, in the mean over the draws."""
    noise = cells.draws - cells.draws.mean(axis=1, keepdims=True)
    found = [float(own.mean()) for own, _ in _mean_squares(cells, noise)]
    return sum(found[:2]) - sum(found[2:])


@dataclass(frozen=True)
class _Estimate:
    """An estimate, its variance from users, and that from training."""

    mean: float
    of_users: float
    users: int
    training: Training

    @property
    def variance(self) -> float:
        return self.of_users + self.training.variance

    def quantile(self, tail: float) -> float:
        """The value that a standardised estimate exceeds with probability ``tail``."""
        return quantile(self.training, self.of_users, self.users, tail)

    @property
    def p(self) -> float:
        """Two-sided p-value of zero."""
        if self.variance == 0:
            return float(self.mean == 0)
        reached = abs(self.mean) / np.sqrt(self.variance)
        if reached > self.quantile(np.exp(SMALLEST) / 2):
            return 0.0
        return float(np.exp(brentq(lambda log_p: self.quantile(np.exp(log_p) / 2) - reached, SMALLEST, 0.0)))


def _estimate(terms: Terms) -> _Estimate:
    parts = _independent_parts(terms)
    users = min(part.users for part in parts)
    weights = [_encoder_weights(part) for part in parts]
    mean = sum(float(weight @ part.values) for weight, part in zip(weights, parts, strict=True))
    drawn = sum(weight @ part.draws for weight, part in zip(weights, parts, strict=True))
    counted = sum(_users_in_training(part) for part in parts)
    scale = users / (users - 1) if users > 1 else np.nan  # a bootstrap of n shows (n - 1) / n of the variance
    of_users = scale * max(float(np.var(drawn)) - counted, 0.0)
    return _Estimate(mean, of_users, users, sum(map(_training, parts), Training()))


def contrast_interval(terms: Terms, settings: BootstrapSettings) -> Interval:
    """The interval of a weighted sum of sources, such as ``[(1, ours), (-1, theirs)]``; see the module's head.

    Ends, spread and p are NaN where fewer than two users carry the metric.

    Raises
    ------
    ValueError
        If the sources have no common CTR seeds, or different numbers of draws.
    """
    found = _estimate(terms)
    counts = {
        "encoders": max(cells.encoders for _, cells in terms),
        "trainings": max(len(cells.values) for _, cells in terms),
    }
    if not np.isfinite(found.variance):
        return Interval(found.mean, np.nan, np.nan, **counts)
    error, quantile = float(np.sqrt(found.variance)), found.quantile((1 - settings.level) / 2)
    reach = quantile * error
    detectable = (quantile + found.quantile(0.2)) * error
    return Interval(found.mean, found.mean - reach, found.mean + reach, error, found.p, detectable, **counts)


def difference_interval(ours: Cells, theirs: Cells, settings: BootstrapSettings) -> Interval:
    """The interval of ours - theirs; see :func:`contrast_interval`."""
    return contrast_interval([(1.0, ours), (-1.0, theirs)], settings)


def share_interval(part: Cells, whole: Cells, ground: Cells, settings: BootstrapSettings) -> Interval:
    """How much of one gain another is, (part - ground) / (whole - ground), with Fieller's (1954) interval.

    It holds the shares s for which part - ground - s (whole - ground) does not differ from zero, under the same model
    as every difference. An end is infinite where no share is ruled out on that side.
    """

    def terms(share: float) -> Terms:
        return [(1.0, part), (-share, whole), (share - 1.0, ground)]

    tail = (1 - settings.level) / 2

    def apart(share: float) -> float:
        found = _estimate(terms(share))
        return abs(found.mean) - found.quantile(tail) * np.sqrt(found.variance)

    gains = [_estimate([(1.0, one), (-1.0, ground)]).mean for one in (part, whole)]
    share = gains[0] / gains[1]
    counts = {"encoders": max(part.encoders, whole.encoders), "trainings": len(part.values)}
    if not np.isfinite(apart(share)):
        return Interval(share, np.nan, np.nan, **counts)
    ends = []
    for side in (-1, 1):
        step = 0.05
        while step < 100 and apart(share + side * step) < 0:
            step *= 1.6
        ends.append(brentq(apart, share, share + side * step, xtol=1e-6) if step < 100 else side * np.inf)
    return Interval(share, float(min(ends)), float(max(ends)), **counts)


def holm(p: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """p-values of a family of tests, adjusted as Holm (1979) does, in the order given.

    To reject all that are below a level keeps the chance of any false one below that level, whatever depends on what.
    With ``weights`` (positive, the same for all by default) a test of more weight is given more of that chance (Holm's
    weighted procedure).
    """
    p, weight = np.asarray(p, dtype=float), np.ones(len(p)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(p / weight, kind="stable")
    left = np.cumsum(weight[order][::-1])[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] / weight[order] * left)
    return np.minimum(adjusted, 1.0).tolist()
