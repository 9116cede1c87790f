"""Each embedding table of a comparison by itself: its proxies, its spectrum, and whether it knows too much."""

from __future__ import annotations

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
        How each proxy goes with the gain over the tables that are not flagged, with intervals of ``level``.
    """
    groups, chosen = grouped(rows), choose_forms(rows)
    model = next(iter(chosen))
    ground = {row.cell.seed: _test_gauc(row) for row in groups[spec.baseline, chosen[model][spec.baseline], model]}
    tables: dict[tuple[str, str], list[Row]] = {}
    for source, form in chosen[model].items():
        for row in groups[source, form, model]:
            if row.cell.table:
                tables.setdefault((source, str(row.cell.table)), []).append(row)
    shown, found = data.item[data.rows["test"]], []
    for (source, path), own in progress.track(tables.items(), description="tables"):
        table = read_table(path)
        vectors, has_vector = table.lookup(data.item_ids)
        known = probe(vectors, has_vector, data, table.info)
        gains = [(_test_gauc(row), ground[row.cell.seed]) for row in own]
        found.append(
            {
                "source": source,
                "table": path,
                "size": int(vectors.shape[1]),
                "items_without_vector": int((~has_vector).sum()),
                "impressions_without_vector": float((~has_vector[shown]).mean()),
                **proxies(vectors, has_vector, data),
                "spectrum": spectrum(vectors[has_vector])[:SPECTRUM].tolist(),
                "gain": None if None in sum(gains, ()) else float(np.mean([ours - base for ours, base in gains])),
                "saw_until": None if (until := seen(table.info)) is None else str(until),
                "auc_before": known.rise.before,
                "auc_on_test": known.rise.test,
                "change_correlation": known.change.correlation,
                "change_ceiling": known.change.ceiling,
                "rate_correlation": known.rates.correlation,
                "rate_ceiling": known.rates.ceiling,
                "flagged": known.reason,
            }
        )
    judged = [one for one in found if one["gain"] is not None and not one["flagged"]]
    correlations = proxy_correlations(judged, [one["gain"] for one in judged])
    rates = exchange_rates(judged, [one["gain"] for one in judged], level)
    slopes = {
        name: dict(zip(("slope", "slope_low", "slope_high"), own or (), strict=False)) for name, own in rates.items()
    }
    lines = [{"proxy": name, "correlation": value, **slopes[name]} for name, value in correlations.items()]
    return frame("tables", found), frame("proxy_correlations", lines)


def _test_gauc(row: Row) -> float | None:
    return row.record["metrics"]["test"]["all"]["gauc"]
