"""Recall of items never shown in training: is one that a user clicks among the k nearest to the user's last clicks?

It says what vectors alone bring to a candidate stage, where IDs and popularity know nothing of such items. The query is
that of the proxy "recall of the next click", by centred vectors, among all items of the dataset; the figures are of the
test split. The interval counts users and, of several tables, pre-training seeds once each, as everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from data_tools.tables.table import centred, read_table, unit_vectors
from downstream.comparison.cells import Row
from downstream.comparison.figures import frame
from downstream.comparison.proxies import RECALL_AT, nearest_items
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import CTRData
from downstream.statistics.bootstrap import BootstrapSettings, user_counts
from downstream.statistics.intervals import Cells, contrast_interval, difference_interval

MOST_CLICKS = 5_000


def cold_clicks(data: CTRData) -> np.ndarray:
    """Test clicks on cold items of users with earlier clicks, at most ``MOST_CLICKS``, drawn by a fixed seed."""
    rows = data.rows["test"][data.slices("test")["cold"]]
    rows = rows[(data.click[rows] == 1) & (data.clicks_before[rows] > 0)]
    return np.sort(np.random.default_rng(0).permutation(rows)[:MOST_CLICKS])


def found_items(table: Path, data: CTRData, rows: np.ndarray, k: int = RECALL_AT) -> np.ndarray:
    """Whether each click's item is among the ``k`` nearest: bool (len(rows),). An item without a vector is not."""
    vectors, has_vector = read_table(table).lookup(data.item_ids)
    fitted = has_vector & data.warm
    apart = centred(vectors, fitted if fitted.any() else has_vector)
    unit = unit_vectors(np.where(has_vector[:, None], apart, np.float32(0)))
    wanted = data.item[rows]
    return (nearest_items(unit, data, rows, k) == wanted[:, None]).any(axis=1) & has_vector[wanted]


def _cells(hits: dict[int, np.ndarray], user: np.ndarray, settings: BootstrapSettings) -> Cells:
    """Recall of each table, by pre-training seed, and in each bootstrap draw of the users (N,)."""
    people, own = np.unique(user, return_inverse=True)
    counts = np.stack([user_counts(len(people), draw, settings.seed) for draw in range(settings.resamples)])
    clicks = counts @ np.bincount(own)
    drawn = [counts @ np.bincount(own, weights=hit) / np.maximum(clicks, 1) for hit in hits.values()]
    values = np.array([hit.mean() for hit in hits.values()])
    return Cells(values, np.stack(drawn), np.array(list(hits)), np.zeros(len(hits), dtype=int), len(people))


def cold_recall(rows: list[Row], data: CTRData, spec: ComparisonSpec, settings: BootstrapSettings) -> pl.DataFrame:
    """Recall of cold items of every source with vectors, and by how much the main source is above it.

    Empty where no test click on a cold item has an earlier click.
    """
    tables: dict[str, dict[int, Path]] = {}
    for row in rows:
        if row.cell.table:
            tables.setdefault(row.cell.source, {})[row.cell.encoder] = row.cell.table
    clicks = cold_clicks(data)
    if not len(clicks):
        return frame("cold_recall")
    user = data.user[clicks]
    measured = {
        source: _cells({encoder: found_items(table, data, clicks) for encoder, table in own.items()}, user, settings)
        for source, own in tables.items()
    }
    found, items = [], len(data.item_ids)
    for source, cells in measured.items():
        own = contrast_interval([(1.0, cells)], settings)
        line = {"source": source, "k": RECALL_AT, "clicks": len(clicks), "items": items}
        line |= {"mean": own.mean, "low": own.low, "high": own.high}
        if source != spec.main and spec.main in measured:
            over = difference_interval(measured[spec.main], cells, settings)
            line |= {"over": over.mean, "over_low": over.low, "over_high": over.high}
        found.append(line)
    return frame("cold_recall", found)
