"""A user's most similar clicks, in the place of the latest ones (MUSE, arXiv 2512.07216, general search unit)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.common.scratch import pieces

BELOW = np.float32(-2)  # every cosine


@dataclass(frozen=True)
class HistorySearch:
    """Finds the clicks of a long history that are most like the shown item, by the cosine of their vectors.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 (items, D), memory-mapped where it is large.
    scale : numpy.ndarray
        float32 (items,), one over each vector's length; 0 of an item without a vector.
    reach : int
        How many of the latest clicks are searched.
    """

    vectors: np.ndarray
    scale: np.ndarray
    reach: int

    @classmethod
    def over(cls, vectors: np.ndarray, found: np.ndarray, reach: int) -> HistorySearch:
        """A search over vectors (items, D), of which those ``found`` (bool (items,)) mean something."""
        length = np.zeros(len(vectors), dtype=np.float32)
        for piece in pieces(len(vectors)):
            length[piece] = np.linalg.norm(vectors[piece], axis=1)
        known = found & (length > 0)
        return cls(vectors, np.divide(1, length, out=np.zeros_like(length), where=known), reach)

    def nearest(self, past: np.ndarray, shown: np.ndarray, count: int) -> np.ndarray:
        """Places in ``past`` of the ``count`` clicks that are most like each shown item, ascending.

        Clicks without a vector come after all others; to an item without one, all clicks are alike. Of clicks that are
        alike, those earlier in ``past`` come first (ours).

        Parameters
        ----------
        past : numpy.ndarray
            Integers (n,), rows of the clicked items; more than ``count``.
        shown : numpy.ndarray
            Integers (m,), rows of the shown items.
        count : int
            How many are kept.

        Returns
        -------
        numpy.ndarray
            int64 (m, count).
        """
        # Once an item: two clicks of one item are then alike to the bit, and the order of time decides between them.
        distinct, place = np.unique(past, return_inverse=True)
        likeness = (self.vectors[shown] @ self.vectors[distinct].T) * (self.scale[distinct] * self.scale[shown, None])
        known = (self.scale[distinct] > 0) & (self.scale[shown, None] > 0)
        likeness = np.where(known, likeness, BELOW)[:, place]
        last = np.partition(likeness, len(past) - count, axis=1)[:, len(past) - count, None]
        above, equal = likeness > last, likeness == last
        kept = above | (equal & (equal.cumsum(axis=1) <= count - above.sum(axis=1, keepdims=True)))
        return kept.nonzero()[1].reshape(len(shown), count)

    def steps_back(
        self, clicked: np.ndarray, end: np.ndarray, shown: np.ndarray, count: np.ndarray, slots: int
    ) -> np.ndarray:
        """How many clicks before an impression its kept ones lie, the latest first: int64 (B, ``slots``).

        Impressions with at most as many clicks as slots keep them all; those of one user and time are searched at once.

        Parameters
        ----------
        clicked : numpy.ndarray
            The items of all clicks.
        end : numpy.ndarray
            Integers (B,), where in ``clicked`` the clicks before each impression end.
        shown, count : numpy.ndarray
            Integers (B,), rows of the shown items, and numbers of clicks before the impressions.
        slots : int
            H.
        """
        steps = np.tile(np.arange(1, slots + 1), (len(end), 1))
        long = np.flatnonzero(count > slots)
        if not len(long):
            return steps
        long = long[np.argsort(end[long], kind="stable")]
        for own in np.split(long, np.flatnonzero(np.diff(end[long])) + 1):
            stop = end[own[0]]
            past = clicked[stop - min(count[own[0]], self.reach) : stop][::-1]
            steps[own] = 1 + self.nearest(past, shown[own], slots)
        return steps
