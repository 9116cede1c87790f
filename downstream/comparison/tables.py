"""Each embedding table of a comparison by itself: its proxies, its spectrum, and whether it knows too much."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.progress import Progress

from data_tools.measures.effective_rank import spectrum
from data_tools.tables.table import read_table
from downstream.comparison.analysis import Contestants, choose_forms, grouped
from downstream.comparison.cells import Row
from downstream.comparison.leaks import probe
from downstream.comparison.proxies import foretold, proxies
from downstream.data.ctr_data import CTRData

SPECTRUM = 64


def look_at_tables(rows: list[Row], data: CTRData, who: Contestants, progress: Progress) -> dict[str, Any]:
    """The tables of a comparison, each with the gain that it brings the first model.

    Returns
    -------
    dict with
        tables : list of source, table (path), size, page AUC, recall, effective rank (see
            ``downstream.comparison.proxies``), spectrum (falling shares of the singular values, at most 64), gain (mean
            GAUC difference from the baseline with the same seeds, in the source's best form; None where GAUC is
            undefined), test_correlation,
            ceiling and flagged (see ``downstream.comparison.leaks``)
        foretold : proxy -> Spearman's correlation with the gain over the tables, or None
        flagged : source -> why
    """
    groups, chosen = grouped(rows), choose_forms(rows)
    model = next(iter(chosen))
    ground = {row.cell.seed: _test_gauc(row) for row in groups[who.baseline, chosen[model][who.baseline], model]}
    tables: dict[tuple[str, str], list[Row]] = {}
    for source, form in chosen[model].items():
        for row in groups[source, form, model]:
            if row.cell.table:
                tables.setdefault((source, str(row.cell.table)), []).append(row)
    looked = []
    for (source, path), own in progress.track(tables.items(), description="tables"):
        vectors, found = read_table(path).lookup(data.item_ids)
        known = probe(vectors, found, data)
        gains = [(_test_gauc(row), ground[row.cell.seed]) for row in own]
        looked.append(
            {
                "source": source,
                "table": path,
                "size": int(vectors.shape[1]),
                **proxies(vectors, found, data),
                "spectrum": spectrum(vectors[found])[:SPECTRUM].tolist(),
                "gain": None if None in sum(gains, ()) else float(np.mean([ours - base for ours, base in gains])),
                "test_correlation": known.test,
                "ceiling": known.ceiling,
                "flagged": known.reason,
            }
        )
    judged = [one for one in looked if one["gain"] is not None and not one["flagged"]]
    return {
        "tables": looked,
        "foretold": foretold(judged, [one["gain"] for one in judged]),
        "flagged": {one["source"]: one["flagged"] for one in looked if one["flagged"]},
    }


def _test_gauc(row: Row) -> float | None:
    return row.record["metrics"]["test"]["all"]["gauc"]
