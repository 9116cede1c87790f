"""Figures of an embedding table that cost no CTR training, and how they correlate with the gain in the CTR model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import linregress, spearmanr, t

from data_tools.measures.effective_rank import effective_rank
from data_tools.measures.group_auc import page_auc
from data_tools.measures.simscore import mean_history
from data_tools.tables.table import centred, unit_vectors
from downstream.data.ctr_data import CTRData
from downstream.statistics.recall import nearest, recall

RECALL_AT = 50
PROXIES = (
    "page AUC of SimScore",
    "page AUC of SimScore, centred",
    f"recall@{RECALL_AT} of the next click",
    "RankMe",
)


def mean_histories(unit: np.ndarray, data: CTRData, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows at a time, with the mean unit vector (n, D) of the last H clicks before each."""
    for part in np.array_split(rows, max(len(rows) // 2048, 1)):
        batch = data.batch(part)
        history = np.where(batch["mask"], batch["row"][batch["history"]], -1)
        # The impressions of a page view share their history.
        yield part, mean_history(unit, history[batch["first"]])[batch["context"]]


def history_scores(unit: np.ndarray, data: CTRData, rows: np.ndarray) -> np.ndarray:
    """Mean cosine of the shown item and the user's last H clicks, by unit vectors: float32 (len(rows),)."""
    means = mean_histories(unit, data, rows)
    return np.concatenate([np.einsum("rd,rd->r", unit[data.item[part]], mean) for part, mean in means])


def nearest_items(unit: np.ndarray, data: CTRData, rows: np.ndarray, k: int) -> np.ndarray:
    """Items nearest to the mean of the last H clicks before each impression, by unit vectors: (len(rows), k)."""
    query = np.concatenate([mean for _, mean in mean_histories(unit, data, rows)])
    return nearest(np.ascontiguousarray(query, dtype=np.float32), unit, k)


def sim_score_page_auc(vectors: np.ndarray, data: CTRData, split: str, limit: int = 50_000) -> float:
    """Within-page AUC of the mean cosine of the shown item and the user's last H clicks (COURIER, arXiv 2306.05001).

    On the first ``limit`` impressions of the split that have a history. Raises ValueError where no page view has both
    labels.
    """
    rows = data.rows[split]
    rows = rows[data.clicks_before[rows] > 0][:limit]
    request = data.dataset.impressions["request"].to_numpy()[rows]
    return page_auc(data.click[rows], history_scores(unit_vectors(vectors), data, rows), request)


def next_click_recall(vectors: np.ndarray, data: CTRData, split: str, k: int = RECALL_AT, limit: int = 5_000) -> float:
    """Share of the split's clicks whose item is among the ``k`` nearest to the mean of the user's last H clicks.

    Nearest by cosine among all items (MOON, arXiv 2511.11305, finds retrieval recall the best intermediate metric; the
    query is ours). On ``limit`` clicks drawn by a fixed seed. Raises ValueError where no click has a history.
    """
    unit = unit_vectors(vectors)
    rows = data.rows[split]
    rows = rows[(data.clicks_before[rows] > 0) & (data.click[rows] == 1)]
    if not len(rows):
        raise ValueError("no click of the split has a history")
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
    return recall(nearest_items(unit, data, rows, k), data.item[rows], [k])[k]


def _value(proxy: Callable[..., float], *given: Any) -> float | None:
    """A proxy's value; None where it is undefined."""
    try:
        return proxy(*given)
    except ValueError:
        return None


def proxies(vectors: np.ndarray, found: np.ndarray, data: CTRData) -> dict[str, float | None]:
    """``PROXIES`` of a table joined to the items, the first three on validation; a missing vector counts as zeros.

    None where one is undefined: no page view with both labels, no click with a history, no item of training.
    """
    fitted = found & data.warm
    apart = np.where(found[:, None], centred(vectors, fitted), np.float32(0)) if fitted.any() else vectors
    values = (
        _value(sim_score_page_auc, vectors, data, "valid"),
        _value(sim_score_page_auc, apart, data, "valid"),
        _value(next_click_recall, vectors, data, "valid"),
        effective_rank(vectors[fitted]) if fitted.any() else None,
    )
    return dict(zip(PROXIES, values, strict=True))


def proxy_correlations(measured: list[dict[str, float | None]], gains: list[float]) -> dict[str, float | None]:
    """Spearman's correlation of each proxy with the gains over all tables; None for fewer than four tables."""
    if len(gains) < 4 or any(one[name] is None for one in measured for name in PROXIES):
        return dict.fromkeys(PROXIES)
    return {name: float(spearmanr([one[name] for one in measured], gains).statistic) for name in PROXIES}


def exchange_rates(
    measured: list[dict[str, float | None]], gains: list[float], level: float
) -> dict[str, tuple[float, float, float] | None]:
    """The gain for a unit of each proxy with its interval, by least squares over the tables; None where undefined.

    The interval is Student's with n - 2 degrees of freedom, for tables that are independent.
    """
    found: dict[str, tuple[float, float, float] | None] = dict.fromkeys(PROXIES)
    for name in PROXIES:
        values = [one[name] for one in measured]
        if len(gains) >= 4 and None not in values and np.ptp(values) > 0:
            fit = linregress(values, gains)
            reach = t.isf((1 - level) / 2, len(gains) - 2) * fit.stderr
            found[name] = float(fit.slope), float(fit.slope - reach), float(fit.slope + reach)
    return found
