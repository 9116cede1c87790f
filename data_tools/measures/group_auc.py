"""AUC within groups (page views, users): exact with ties, one sort, no loop over groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WEIGHTS = ("impressions", "clicks", "equal")


@dataclass(frozen=True)
class GroupAUC:
    """AUC of each group (user or page view), in the order of the sorted group ids.

    Attributes
    ----------
    group : array (G,)
        The distinct ids.
    auc : float64 array (G,)
        NaN where a group lacks clicks or lacks non-clicks.
    impressions, clicks : int64 arrays (G,)
    """

    group: np.ndarray
    auc: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray

    @property
    def defined(self) -> np.ndarray:
        """bool (G,): the groups that have both labels."""
        return (self.clicks > 0) & (self.clicks < self.impressions)

    def mean(self, weight: str = "impressions") -> float:
        """Weighted mean of the AUC over the groups with both labels.

        Raises
        ------
        ValueError
            If no group has both labels, or the weight is unknown.
        """
        if weight not in WEIGHTS:
            raise ValueError(f"unknown weight {weight!r}; choose one of {', '.join(WEIGHTS)}")
        weights = {"impressions": self.impressions, "clicks": self.clicks, "equal": np.ones(len(self.group))}[weight]
        defined = self.defined
        if not defined.any():
            raise ValueError("GAUC is undefined: no group has both a click and an impression without one")
        return float(np.average(self.auc[defined], weights=weights[defined]))


def checked_labels(click: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """``click`` as bool and the other arrays, all of shape (N,); the first of them holds the scores.

    Raises
    ------
    ValueError
        For unequal lengths, labels other than 0 and 1, or NaN scores.
    """
    arrays = (np.asarray(click), *(np.asarray(other) for other in others))
    shapes = [array.shape for array in arrays]
    if arrays[0].ndim != 1 or len(set(shapes)) != 1:
        raise ValueError(f"arrays of shapes {shapes}; must be one-dimensional and of one length")
    if not np.isin(arrays[0], (0, 1)).all():
        raise ValueError("click holds values other than 0 and 1")
    if np.issubdtype(arrays[1].dtype, np.floating) and np.isnan(arrays[1]).any():
        raise ValueError("scores hold NaN")
    return (arrays[0].astype(bool), *arrays[1:])


def group_auc(click: np.ndarray, score: np.ndarray, group: np.ndarray) -> GroupAUC:
    """AUC of every group from one sort by (group, score); ties count one half (mid-ranks).

    Parameters
    ----------
    click : array (N,)
        0 or 1.
    score : array (N,)
        Any real dtype.
    group : array (N,)
        Ids of any sortable dtype.

    Raises
    ------
    ValueError
        For unequal lengths, labels other than 0 and 1, or NaN scores.
    """
    click, score, group = checked_labels(click, score, group)
    order = np.lexsort((score, group))
    click, score, group = click[order], score[order], group[order]
    new_group = np.ones(len(group), dtype=bool)
    new_group[1:] = group[1:] != group[:-1]
    new_value = new_group.copy()
    new_value[1:] |= score[1:] != score[:-1]

    starts = np.flatnonzero(new_group)
    impressions = np.diff(np.append(starts, len(group)))
    tie_starts = np.flatnonzero(new_value)
    tie_sizes = np.diff(np.append(tie_starts, len(group)))
    # 0-based mid-rank within the group: half-integers below 2^52, so the sums below are exact.
    rank = np.repeat(tie_starts + (tie_sizes - 1) / 2, tie_sizes) - np.repeat(starts, impressions)

    clicks = np.add.reduceat(click, starts, dtype=np.int64) if len(starts) else np.zeros(0, dtype=np.int64)
    rank_sum = np.add.reduceat(np.where(click, rank, 0.0), starts) if len(starts) else np.zeros(0)
    pairs = (clicks * (impressions - clicks)).astype(np.float64)
    wins = rank_sum - clicks * (clicks - 1) / 2
    value = np.divide(wins, pairs, out=np.full(len(starts), np.nan), where=pairs > 0)
    return GroupAUC(group[starts], value, impressions, clicks)


def page_auc(click: np.ndarray, score: np.ndarray, request: np.ndarray) -> float:
    """AUC within each page view, averaged with equal weight over the page views with both labels (our choice).

    Raises
    ------
    ValueError
        If no page view has both labels; see also :func:`group_auc`.
    """
    return group_auc(click, score, request).mean("equal")
