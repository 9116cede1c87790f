"""Does a table know the labels of the test split? A gain that rests on such knowledge is flagged, not celebrated.

Both checks ask how well an item's click rate in a split can be read from its vector (a ridge probe, out of fold). They
are ours.

- More than there is to know: the click rate of a few impressions is mostly noise. Two halves of the users tell how
  much of it repeats (Spearman-Brown), and what does not repeat, no honest vector knows.
- More of the test split than of the one before: nothing about the items changed between them but who looked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from downstream.data.ctr_data import CTRData

MIN_ITEMS, MIN_IMPRESSIONS = 50, 6
# Standard errors beyond which chance is no explanation: below 1 in 30,000 a check.
BEYOND_CHANCE = 4.0


@dataclass(frozen=True)
class Probe:
    """Correlations of the probe with the click rates, and the most that an honest table could reach (nan: unknown)."""

    valid: float
    test: float
    ceiling: float
    items: int

    @property
    def reason(self) -> str | None:
        """Why the table is flagged, in words; None if it is not."""
        if np.isnan(self.test) or np.isnan(self.valid):
            return None
        error = 1 / np.sqrt(self.items - 3)
        reached, ceiling, before = (
            np.arctanh(np.clip(r, -0.9999, 0.9999)) for r in (self.test, self.ceiling, self.valid)
        )
        if not np.isnan(ceiling) and reached - ceiling > BEYOND_CHANCE * error:
            return (
                f"its vectors tell the click rates of {self.items:,} items in the test split with correlation "
                f"{self.test:.2f}, though only {self.ceiling:.2f} could be known without having seen its labels"
            )
        if reached - before > BEYOND_CHANCE * np.sqrt(2) * error:
            return (
                f"its vectors tell the click rates of {self.items:,} items in the test split with correlation "
                f"{self.test:.2f}, and with {self.valid:.2f} in the validation split just before"
            )
        return None


def _rates(data: CTRData, split: str, half: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Click rate (nan where never shown) and impressions of every item in a split, of all users or of one half."""
    rows = data.rows[split]
    if half is not None:
        rows = rows[data.user[rows] % 2 == half]
    shown = np.bincount(data.item[rows], minlength=len(data.warm))
    clicks = np.bincount(data.item[rows], weights=data.click[rows], minlength=len(data.warm))
    return np.divide(clicks, shown, out=np.full(len(shown), np.nan), where=shown > 0), shown


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def probe(vectors: np.ndarray, found: np.ndarray, data: CTRData) -> Probe:
    """Probe a table (items, D) for knowledge of the labels; items with few impressions or no vector stay out."""
    (valid, valid_shown), (test, test_shown) = _rates(data, "valid"), _rates(data, "test")
    kept = found & (valid_shown >= MIN_IMPRESSIONS) & (test_shown >= MIN_IMPRESSIONS)
    halves = [_rates(data, "test", half) for half in (0, 1)]
    kept &= (halves[0][1] > 0) & (halves[1][1] > 0)
    count = int(kept.sum())
    if count < MIN_ITEMS:
        return Probe(np.nan, np.nan, np.nan, count)
    reduced = PCA(min(64, count // 5, vectors.shape[1]), random_state=0)
    model = make_pipeline(StandardScaler(), reduced, StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    folds = KFold(5, shuffle=True, random_state=0)

    def told(rate: np.ndarray) -> float:
        return _correlation(cross_val_predict(model, vectors[kept], rate[kept], cv=folds), rate[kept])

    repeats = _correlation(halves[0][0][kept], halves[1][0][kept])
    ceiling = np.sqrt(max(2 * repeats / (1 + repeats), 0.0)) if repeats > -1 else np.nan
    return Probe(told(valid), told(test), float(ceiling), count)
