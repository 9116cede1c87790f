"""The stages of a cascade, each timed on its own: Qscore, a pre-ranker of two towers, a ranker of pairs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from downstream.data.ctr_data import CTRData
from downstream.data.tensors import tensors
from downstream.models.base import CTRModel
from downstream.models.towers import Towers, catalogue_vectors


def qscore(data: CTRData, weight: float) -> np.ndarray:
    """The smoothed click rate of each item in the training split, float64 (items,).

    (clicks + weight * rate) / (impressions + weight) with the rate over all items: an item never shown has that rate
    (the project's brief asks for one static click rate an ad; the smoothing is ours).
    """
    rows = data.rows["train"]
    items, count = data.item[rows], len(data.item_code)
    clicks, shown = np.bincount(items, data.click[rows], count), np.bincount(items, minlength=count)
    return (clicks + weight * data.click[rows].mean()) / (shown + weight)


def best(scores: np.ndarray, keep: int) -> np.ndarray:
    """Positions of the ``keep`` highest scores, the highest first; of equal ones those that come first."""
    if keep < len(scores):
        edge = np.partition(scores, len(scores) - keep)[len(scores) - keep]
        above, equal = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
        places = np.sort(np.concatenate([above, equal[: keep - len(above)]]))
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")]


@dataclass
class Cascade:
    """Qscore and two trained models.

    Attributes
    ----------
    data : CTRData
        The dataset.
    scores : numpy.ndarray
        Qscore of each item.
    pre, ranker : CTRModel
        Trained on that data.
    keep : tuple of int
        Items that each of the three stages keeps.
    vectors : numpy.ndarray
        Of each item, by ``pre``, computed before any request.
    """

    data: CTRData
    scores: np.ndarray
    pre: Towers
    ranker: CTRModel
    keep: tuple[int, int, int]

    def __post_init__(self) -> None:
        self.pre.eval()
        self.ranker.eval()
        first_seen = self.data.dataset.items["first_seen"]
        self.first_seen = first_seen.fill_null(np.iinfo(np.int64).max).to_numpy()  # null: never shown
        self.timestamp = self.data.dataset.impressions["timestamp"].to_numpy()
        self.vectors = catalogue_vectors(self.pre, self.data, np.arange(len(self.data.item_code)))

    def candidates(self, row: int) -> np.ndarray:
        """Items that exist at the time of an impression, by ``first_seen``."""
        return np.flatnonzero(self.first_seen <= self.timestamp[row])

    @torch.inference_mode()
    def pre_scores(self, row: int, items: np.ndarray) -> np.ndarray:
        """u . a of the user and scene of an impression with each item, float32 (n,)."""
        user = self.pre.user_vectors(tensors(self.data.batch(np.array([row])))).numpy()[0]
        return self.vectors[items] @ user

    @torch.inference_mode()
    def ranker_scores(self, row: int, items: np.ndarray, chunk: int = 512) -> np.ndarray:
        """Logits of the ranker for the user, history and scene of an impression with each item, float32 (n,)."""
        shown = self.data.with_impressions(np.full(len(items), row), items)
        places = np.arange(len(items))
        parts = np.split(places, range(chunk, len(items), chunk))
        return torch.cat([self.ranker(tensors(shown.batch(part))) for part in parts]).numpy()

    def run(self, row: int) -> tuple[list[np.ndarray], list[float]]:
        """The items that each stage keeps, the best first, and the seconds each took."""
        stages = (self.scores.__getitem__, partial(self.pre_scores, row), partial(self.ranker_scores, row))
        kept, seconds, items = [], [], self.candidates(row)
        for score, keep in zip(stages, self.keep, strict=True):
            begun = time.perf_counter()
            items = items[best(score(items), keep)]
            seconds.append(time.perf_counter() - begun)
            kept.append(items)
        return kept, seconds

    def operations(self, row: int) -> list[int]:
        """Multiply-adds of each stage for one request, as torch counts them in matrix products; 0 of Qscore.

        The products of precomputed vectors are counted as items x size; look-ups and sums are not counted.
        """
        stages, _ = self.run(row)

        def counted(call) -> int:
            with FlopCounterMode(display=False) as counter:
                call()
            return counter.get_total_flops() // 2

        first, second, _ = stages
        pre = counted(lambda: self.pre_scores(row, first)) + len(first) * self.vectors.shape[1]
        return [0, pre, counted(lambda: self.ranker_scores(row, second))]
