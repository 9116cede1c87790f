"""Ranking and calibration metrics on numpy arrays: exact with ties, one sort each, no loop over users.

Scores may be on any scale, since only their order counts; ``log_loss`` alone needs probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.measures.group_auc import checked_labels, group_auc


def auc(click: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a click outscores a non-click, ties counting one half.

    Raises
    ------
    ValueError
        If only one class is present, since no pair can be compared.
    """
    click = np.asarray(click)
    clicks = int(np.count_nonzero(click))
    if clicks in (0, len(click)):
        raise ValueError(f"AUC is undefined for one class: {clicks} clicks in {len(click)} impressions")
    return float(group_auc(click, score, np.zeros(len(click), dtype=np.int8)).auc[0])


def gauc(click: np.ndarray, score: np.ndarray, user: np.ndarray, weight: str = "impressions") -> float:
    """AUC within each user, averaged over the users with both labels.

    ``weight="impressions"``: sum_u n_u AUC_u / sum_u n_u with n_u the user's impressions (DICM, arXiv 1711.06505; so
    does FuxiCTR). ``weight="clicks"``: n_u is the user's clicks (RecBole and PixelRec). ``weight="equal"``: 1 a user.

    Raises
    ------
    ValueError
        If no user has both labels, or the weight is unknown. Users with one label have no AUC and no weight.
    """
    return group_auc(click, score, user).mean(weight)


def ndcg(click: np.ndarray, score: np.ndarray, request: np.ndarray, k: int = 10) -> float:
    """NDCG@k of the page views (Järvelin and Kekäläinen 2002), averaged over those with a click.

    DCG@k = sum over the k best ranks of click / log2(rank + 1), over the same with all clicks first. Tied scores share
    the mean discount of their ranks, so that the order in the log does not count (as scikit-learn does).

    Raises
    ------
    ValueError
        If no page view has a click, or k is below 1.
    """
    click, score, request = checked_labels(click, score, request)
    if k < 1:
        raise ValueError(f"k is {k}; must be >= 1")
    order = np.lexsort((-score, request))
    click, score, request = click[order], score[order], request[order]
    new_page = np.ones(len(click), dtype=bool)
    new_page[1:] = request[1:] != request[:-1]
    new_value = new_page.copy()
    new_value[1:] |= score[1:] != score[:-1]
    starts, ties = np.flatnonzero(new_page), np.flatnonzero(new_value)
    sizes = np.diff(np.append(starts, len(click)))
    rank = np.arange(len(click)) - np.repeat(starts, sizes)
    discount = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)

    tie_sizes = np.diff(np.append(ties, len(click)))
    gain = click * np.repeat(np.add.reduceat(discount, ties) / tie_sizes, tie_sizes) if len(ties) else discount
    clicks = np.add.reduceat(click, starts, dtype=np.int64) if len(starts) else np.zeros(0, dtype=np.int64)
    with_click = clicks > 0
    if not with_click.any():
        raise ValueError("NDCG is undefined: no page view has a click")
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])[np.minimum(clicks, k)]
    return float((np.add.reduceat(gain, starts)[with_click] / ideal[with_click]).mean())


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed click rates in bins of equal numbers of impressions.

    Attributes
    ----------
    predicted, observed : float64 (bins,), mean probability and click rate of each bin, by rising probability
    impressions : int64 (bins,)
    """

    predicted: np.ndarray
    observed: np.ndarray
    impressions: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: sum of share of impressions x |observed - predicted| (arXiv 1706.04599)."""
        return float(np.average(np.abs(self.observed - self.predicted), weights=self.impressions))


def calibration(click: np.ndarray, probability: np.ndarray, bins: int = 20) -> Calibration:
    """Cut the impressions, sorted by probability, into ``bins`` of equal size (ours: click rates crowd near zero).

    Raises
    ------
    ValueError
        If there are no impressions.
    """
    click, probability = checked_labels(click, probability)
    if not len(click):
        raise ValueError("calibration is undefined without impressions")
    order = np.argsort(probability, kind="stable")
    cuts = np.unique(np.arange(bins) * len(click) // bins)
    sizes = np.diff(np.append(cuts, len(click)))
    predicted = np.add.reduceat(probability[order].astype(np.float64), cuts) / sizes
    return Calibration(predicted, np.add.reduceat(click[order].astype(np.float64), cuts) / sizes, sizes)


def click_loss(click: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each impression, float64 (N,); probabilities are kept off 0 and 1 by 1e-7."""
    click, probability = checked_labels(click, probability)
    probability = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.where(click, np.log(probability), np.log1p(-probability))


def log_loss(click: np.ndarray, probability: np.ndarray) -> float:
    """Mean negative log-likelihood of the clicks (see :func:`click_loss`).

    Raises
    ------
    ValueError
        If there are no impressions.
    """
    if not len(click):
        raise ValueError("log loss is undefined without impressions")
    return float(click_loss(click, probability).mean())


def all_metrics(click: np.ndarray, probability: np.ndarray, user: np.ndarray) -> dict[str, float | None]:
    """``auc``, ``gauc`` (impression-weighted) and ``log_loss``; None where one is undefined on these impressions."""

    def value(metric, *arrays) -> float | None:
        try:
            return metric(click, *arrays)
        except ValueError:
            return None

    return {
        "auc": value(auc, probability),
        "gauc": value(gauc, probability, user),
        "log_loss": value(log_loss, probability),
    }
