"""Each embedding table of a comparison by itself: its proxies, its spectrum, and whether it knows too much."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from rich.progress import Progress

from data_tools.measures.effective_rank import spectrum
from data_tools.tables.seen import seen
from data_tools.tables.table import read_table
from downstream.comparison.analysis import choose_forms, grouped
from downstream.comparison.cells import Row
from downstream.comparison.figures import frame
from downstream.comparison.leaks import probe
from downstream.comparison.proxies import exchange_rates, proxies, proxy_correlations
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import CTRData

SPECTRUM = 64


def table_diagnostics(
    rows: list[Row], data: CTRData, spec: ComparisonSpec, level: float, progress: Progress
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables of a comparison, each with the gain that it brings the first model.

    Returns
    -------
    tables : polars.DataFrame
        source, table (path), size, items without a vector, share of test impressions without one, proxies (see
        ``downstream.comparison.proxies``), spectrum (falling shares of the singular values, at most 64), gain (mean
        GAUC difference from the baseline with the same seeds, in the source's best form; null where GAUC is undefined),
        saw_until (what table.json says of the time that its training data reach, as text), and what the leak check
        found and flagged (see ``downstream.comparison.leaks``).
    proxy_correlations : polars.DataFrame
        How each proxy correlates with the gain over the tables that are not flagged, with intervals of ``level``.
    """
    groups, chosen = grouped(rows), choose_forms(rows)
    model = next(iter(chosen))
    ground = {row.cell.seed: _test_gauc(row) for row in groups[spec.baseline, chosen[model][spec.baseline], model]}
    tables: dict[tuple[str, str], list[Row]] = {}
    for source, form in chosen[model].items():
        for row in groups[source, form, model]:
            if row.cell.table:
                tables.setdefault((source, str(row.cell.table)), []).append(row)
    found = []
    for (source, path), own in progress.track(tables.items(), description="tables"):
        gains = [(_test_gauc(row), ground[row.cell.seed]) for row in own]
        gain = None if None in sum(gains, ()) else float(np.mean([ours - base for ours, base in gains]))
        found.append({"source": source, "table": path, "gain": gain, **_diagnosed(path, data)})
    judged = [one for one in found if one["gain"] is not None and not one["flagged"]]
    return frame("tables", found), frame("proxy_correlations", _correlations(judged, level))


def _diagnosed(path: str, data: CTRData) -> dict[str, Any]:
    """What :func:`table_diagnostics` says of a table by itself."""
    table = read_table(path)
    vectors, has_vector = table.lookup(data.item_ids)
    known, until = probe(vectors, has_vector, data, table.info), seen(table.info)
    return {
        "size": int(vectors.shape[1]),
        "items_without_vector": int((~has_vector).sum()),
        "impressions_without_vector": float((~has_vector[data.item[data.rows["test"]]]).mean()),
        **proxies(vectors, has_vector, data),
        "spectrum": spectrum(vectors[has_vector])[:SPECTRUM].tolist(),
        "saw_until": None if until is None else str(until),
        "auc_before": known.rise.before,
        "auc_on_test": known.rise.test,
        "change_correlation": known.change.correlation,
        "change_ceiling": known.change.ceiling,
        "rate_correlation": known.rates.correlation,
        "rate_ceiling": known.rates.ceiling,
        "flagged": known.reason,
    }


def _correlations(judged: list[dict[str, Any]], level: float) -> list[dict[str, Any]]:
    """Of each proxy its correlation with the gain over some tables, and its exchange rate with an interval."""
    gains = [one["gain"] for one in judged]
    rates, lines = exchange_rates(judged, gains, level), []
    for name, correlation in proxy_correlations(judged, gains).items():
        slopes = zip(("slope", "slope_low", "slope_high"), rates[name] or (), strict=False)
        lines.append({"proxy": name, "correlation": correlation, **dict(slopes)})
    return lines


def _test_gauc(row: Row) -> float | None:
    return row.record["metrics"]["test"]["all"]["gauc"]
