"""Does a table know the labels of the test split? A gain that rests on such knowledge is flagged, not celebrated.

Four checks, all ours.

- Time: ``table.json`` may say until when the training data of the table reach (``saw_until``, see
  ``data_tools.tables.seen``). Beyond the start of the test split, the table is flagged; without it that is unknown.
- Users: how well the cosine of an item with the user's last clicks ranks page views (within-page AUC). What a table
  learned from clicks of the test split raises this on test, not on the validation split before it, nor at the end of
  the training split. Beyond ``HONEST_DRIFT`` and ``BEYOND_CHANCE`` standard errors, which count each user once,
  nothing honest explains the rise.
- Items, change: how well the change of the items' click rates from validation to test can be read from the vectors
  (ridge, out of fold). The true click rates cancel in it; what is left is chance, which no honest vector knows, and
  drift. Only what follows the test rates rather than those of validation is flagged.
- Items, rates: the same of the click rates in the test split, of which chance is a part, too.

The part of a rate, or of a change, that is no chance is what repeats between random halves of the users (Spearman and
Brown, over many halves). The squared correlation of what is read from the vectors is a share of variance; an honest one
stays below that part, of splits of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.tables.seen import NOTHING, seen
from data_tools.tables.table import centred, unit_vectors
from downstream.comparison.proxies import history_scores
from downstream.data.ctr_data import CTRData
from downstream.statistics.metrics import group_auc

MIN_ITEMS, MIN_IMPRESSIONS, MIN_USERS, MIN_HISTORY = 50, 6, 30, 3
# Standard errors beyond which chance is no explanation: about 1 in 700 a check.
BEYOND_CHANCE = 3.0
# Page AUC that the period alone may bring: other items, other users, longer histories.
HONEST_DRIFT = 0.01
HALVES = 20


@dataclass(frozen=True)
class Rise:
    """Within-page AUC of the cosine with the user's last clicks, on the test split and on rows before it.

    Attributes
    ----------
    before, test : float
        NaN where too few users could tell.
    error : float
        Standard error of their difference.
    reference : str
        Which rows before.
    """

    before: float = np.nan
    test: float = np.nan
    error: float = np.nan
    reference: str = ""

    @property
    def beyond(self) -> bool:
        """Whether nothing honest explains the rise."""
        return self.score > BEYOND_CHANCE

    @property
    def score(self) -> float:
        """The rise beyond drift, in standard errors."""
        return (self.test - self.before - HONEST_DRIFT) / self.error if self.error > 0 else -np.inf


@dataclass(frozen=True)
class Reading:
    """What is read from the vectors of the items' click rates.

    Attributes
    ----------
    items : int
    correlation : float
        Of what is read, out of fold; NaN of too few items.
    ceiling : float
        The most that an honest table could reach.
    beyond : bool
        Whether the correlation is beyond it, chance allowed for.
    """

    items: int
    correlation: float = np.nan
    ceiling: float = np.nan
    beyond: bool = False


@dataclass(frozen=True)
class Probe:
    """What a table shows of the splits, and why it is flagged, in words; None if it is not."""

    rise: Rise
    change: Reading
    rates: Reading
    reason: str | None


def probe(vectors: np.ndarray, found: np.ndarray, data: CTRData, info: dict[str, Any] | None = None) -> Probe:
    """Probe a table (items, D) for knowledge of the test labels.

    Parameters
    ----------
    vectors : float32 (items, D)
    found : bool (items,)
        Which items have a vector.
    info : dict, optional
        What ``table.json`` says.
    """
    rise = _users_level(vectors, found, data)
    change, rates = _items_level(vectors, found, data)
    reason = _by_time(info or {}, data)
    if reason is None and rise.beyond:
        reason = (
            f"cosines with a user's clicks rank the page views of the test split with AUC {rise.test:.3f}, those "
            f"{rise.reference} with {rise.before:.3f}"
        )
    readings = {
        "how the click rates of {} items change from validation to test": change,
        "the click rates of {} items in the test split": rates,
    }
    for what, own in readings.items():
        if reason is None and own.beyond:
            reason = (
                f"its vectors predict {what.format(f'{own.items:,}')} with correlation {own.correlation:.2f}, though "
                f"at most {own.ceiling:.2f} could be known without seeing test labels"
            )
    return Probe(rise, change, rates, reason)


def _by_time(info: dict[str, Any], data: CTRData) -> str | None:
    """What ``table.json`` admits."""
    begins = data.dataset.info.get("splits", {}).get("test_start")
    until = seen(info)
    if begins is None or until in (None, NOTHING) or until < begins:
        return None
    return f"table.json says that its training data reach until {until}, and the test split begins at {begins}"


def _users_level(vectors: np.ndarray, found: np.ndarray, data: CTRData) -> Rise:
    """The rise that is furthest beyond chance, of raw and centred vectors and of both references."""
    fitted = found & data.warm
    ways = [unit_vectors(vectors)]
    if fitted.any():
        ways.append(np.where(found[:, None], centred(vectors, fitted), np.float32(0)))
    before = {
        "of the validation split just before": data.rows["valid"],
        "at the end of the training split": data.rows["train"][-len(data.rows["valid"]) :],
    }
    rises = [Rise()]
    for unit in ways:
        test, error = _page_auc(unit, data, data.rows["test"])
        for reference, rows in before.items():
            own, own_error = _page_auc(unit, data, rows)
            rises.append(Rise(own, test, float(np.hypot(error, own_error)), reference))
    return max(rises, key=lambda rise: rise.score)


def _page_auc(unit: np.ndarray, data: CTRData, rows: np.ndarray, limit: int = 60_000) -> tuple[float, float]:
    """Mean AUC of the page views of users with some clicks before, and its standard error; NaN of too few users.

    Pages of one user are not independent, so the error is that of a mean over users (linearised).
    """
    rows = rows[data.clicks_before[rows] >= MIN_HISTORY][:limit]
    if not len(rows):
        return np.nan, np.nan
    request = data.dataset.impressions["request"].to_numpy()[rows]
    pages = group_auc(data.click[rows], history_scores(unit, data, rows), request)
    user = data.user[rows][np.unique(request, return_index=True)[1]][pages.defined]
    people, of = np.unique(user, return_inverse=True)
    if len(people) < MIN_USERS:
        return np.nan, np.nan
    own = pages.auc[pages.defined]
    by_user = np.bincount(of, weights=own - own.mean())
    return float(own.mean()), float(np.sqrt((by_user**2).sum() * len(people) / (len(people) - 1)) / len(own))


def _rates(data: CTRData, split: str, users: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Click rate (NaN where never shown) and impressions of every item in a split, of all users or of some (a mask)."""
    rows = data.rows[split]
    if users is not None:
        rows = rows[users[data.user[rows]]]
    shown = np.bincount(data.item[rows], minlength=len(data.warm))
    clicks = np.bincount(data.item[rows], weights=data.click[rows], minlength=len(data.warm))
    return np.divide(clicks, shown, out=np.full(len(shown), np.nan), where=shown > 0), shown


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _repeating(values: Callable[[np.ndarray | None], np.ndarray], kept: np.ndarray, users: int) -> float:
    """Share of the variance of the items' values that repeats between users: Spearman-Brown over many random halves.

    ``values`` gives each item's value by some users (a mask); ``kept`` are the items that count.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(HALVES):
        half = rng.random(users) < 0.5
        one, other = values(half)[kept], values(~half)[kept]
        both = np.isfinite(one) & np.isfinite(other)
        if both.sum() >= MIN_ITEMS:
            found.append(_correlation(one[both], other[both]))
    repeats = max(float(np.mean(found)), 0.0) if found else 0.0
    return 2 * repeats / (1 + repeats)


def _reading(read: np.ndarray, truth: np.ndarray, share: float) -> Reading:
    correlation, error = _correlation(read, truth), 1 / np.sqrt(len(truth))
    known = max(correlation, 0.0) ** 2
    chance = 2 * error * np.hypot(np.sqrt(known) * (1 - known), 1 - share**2)  # of both shares, by the delta method
    beyond = correlation > BEYOND_CHANCE * error and known - share > BEYOND_CHANCE * chance
    return Reading(len(truth), correlation, float(np.sqrt(share)), bool(beyond))


def _items_level(vectors: np.ndarray, found: np.ndarray, data: CTRData) -> tuple[Reading, Reading]:
    """What is read of the change of click rates from validation to test, and of those in the test split."""
    (valid, valid_shown), (test, test_shown) = _rates(data, "valid"), _rates(data, "test")
    kept = found & (valid_shown >= MIN_IMPRESSIONS) & (test_shown >= MIN_IMPRESSIONS)
    count, users = int(kept.sum()), int(data.user.max()) + 1
    if count < MIN_ITEMS:
        return Reading(count), Reading(count)
    valid, test = valid[kept], test[kept]
    reduced = PCA(min(128, count // 5, vectors.shape[1]), random_state=0)
    ridge = RidgeCV(np.logspace(-2, 5, 15), alpha_per_target=True)
    model = make_pipeline(StandardScaler(), reduced, StandardScaler(), ridge)
    truth = np.column_stack([test - valid, test])
    folds = KFold(5, shuffle=True, random_state=0)
    of_change, of_test = cross_val_predict(model, vectors[kept], truth, cv=folds).T

    def change_of(some: np.ndarray | None) -> np.ndarray:
        return _rates(data, "test", some)[0] - _rates(data, "valid", some)[0]

    change = _reading(of_change, test - valid, _repeating(change_of, kept, users))
    if np.cov(of_change, test)[0, 1] < -np.cov(of_change, valid)[0, 1]:  # it is validation that the table knows
        change = replace(change, beyond=False)
    share = _repeating(lambda some: _rates(data, "test", some)[0], kept, users)
    return change, _reading(of_test, test, share)
