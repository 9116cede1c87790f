"""Tables of the report, as rows of text."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from data_tools.common.pages import MISSING
from data_tools.measures.spread import mean_and_spread
from downstream.comparison.cells import Row
from downstream.comparison.figures import METRICS_OF_CELLS, Figures, record, records, select
from downstream.comparison.proxies import PROXIES
from downstream.comparison.spec import BEST, NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES
from downstream.report.words import METRIC_NAMES, SLICE_NAMES, Names, interval, share, signed

Rows = list[list[str]]
METRIC_COLUMNS = ["source, form", *(METRIC_NAMES[metric] for metric in METRICS_OF_CELLS)]
ATTAINABLE = "share of attainable GAUC gain"  # a further column, where the true probabilities are known


def label(source: str, form: str, names: Names) -> str:
    """A source and its form; IDs only have none."""
    return names(source) if form == NO_FORM else f"{names(source)}, {names(form)}"


def gains(figures: Figures, spec: ComparisonSpec, model: str) -> list[dict[str, Any]]:
    """Differences of the tested metric from the baseline, every source in every form."""
    rows = select(figures.differences, b=spec.baseline, model=model, metric=figures.tested)
    return rows.filter(pl.col("form") != BEST).to_dicts()


def best_gains(figures: Figures, spec: ComparisonSpec, model: str) -> list[dict[str, Any]]:
    """The same, each source in its best form on validation, which is named; the largest on all impressions first."""
    rows = records(figures.differences, b=spec.baseline, model=model, metric=figures.tested, form=spec.headline)
    worth = {row["a"]: row["mean"] for row in rows if row["slice"] == "all"}
    found = [row | {"form": figures.chosen_form(model, row["a"])} for row in rows]
    return sorted(found, key=lambda row: -worth.get(row["a"], -np.inf))


def model_rows(figures: Figures, spec: ComparisonSpec, names: Names) -> list[tuple[str, Rows]]:
    """(slice name, lines): one line a model with the baseline's GAUC and each source's gain; nothing of one model."""
    if len(figures.models) == 1:
        return []
    others, found = [source for source in figures.sources if source != spec.baseline], []
    for part in SLICES:
        lines = []
        for model in figures.models:
            ground = select(figures.cells, model=model, slice=part, source=spec.baseline)[figures.tested].to_list()
            line = [names(model), mean_and_spread(ground)]
            wanted = {
                "b": spec.baseline,
                "form": spec.headline,
                "model": model,
                "slice": part,
                "metric": figures.tested,
            }
            for source in others:
                gain = record(figures.differences, a=source, **wanted)
                line.append(interval(gain) if gain else MISSING)
            lines.append(line)
        if any(cell != MISSING for line in lines for cell in line[1:]):
            found.append((SLICE_NAMES[part], lines))
    return found


def metric_rows(figures: Figures, model: str, part: str, names: Names) -> Rows:
    """``METRIC_COLUMNS``, one line a (source, form), and the share of the attainable GAUC gain where it is known."""
    cells, lines = select(figures.cells, model=model, slice=part), []
    for source, form in cells.select("source", "form").unique(maintain_order=True).iter_rows():
        own = select(cells, source=source, form=form)
        gain = record(figures.attainable, source=source, form=form, model=model, slice=part, metric="gauc")
        values = [mean_and_spread(own[metric].to_list()) for metric in METRICS_OF_CELLS]
        lines.append([label(source, form, names), *values, f"{gain['share']:.0%}" if gain else MISSING])
    if figures.oracle.is_empty():
        return [line[:-1] for line in lines]
    truth = record(figures.oracle, slice=part)
    values = [mean_and_spread([truth[metric]]) for metric in METRICS_OF_CELLS]
    return [*lines, ["true click probabilities", *values, MISSING]]


def difference_rows(figures: Figures, names: Names) -> Rows:
    """One line a (pair, form, model, metric), the slices side by side."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in figures.differences.iter_rows(named=True):
        pair = f"{names(row['a'])} − {names(row['b'])}"
        key = pair, names(row["form"]), names(row["model"]), METRIC_NAMES[row["metric"]]
        lines.setdefault(key, {})[row["slice"]] = interval(row)
    return [[*key, *(values.get(part, MISSING) for part in SLICES)] for key, values in lines.items()]


def heat_map(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> dict[str, Any]:
    """GAUC gain over the baseline on all test impressions, form by form; the shade is its share of the largest."""
    rows = [row for row in gains(figures, spec, model) if row["slice"] == "all"]
    largest = max((abs(row["mean"]) for row in rows), default=0) or 1.0
    cells = {
        (row["a"], row["form"]): {
            "text": signed(row["mean"]) + " *" * abs(row["direction"]),
            "shade": round(60 * abs(row["mean"]) / largest),
            "colour": "var(--better)" if row["mean"] > 0 else "var(--worse)",
        }
        for row in rows
    }
    nothing = {"text": MISSING, "shade": 0, "colour": "var(--muted)"}
    sources = dict.fromkeys(source for source, _ in cells)
    grid = {names(source): [cells.get((source, form), nothing) for form in spec.forms] for source in sources}
    return {"forms": [names(form) for form in spec.forms], "sources": grid}


def table_rows(figures: Figures, names: Names) -> Rows:
    """One line a table: source, size, its proxies and the gain."""
    digits = dict.fromkeys(PROXIES, 4) | {PROXIES[-1]: 1}
    return [
        [
            names(one["source"]) + (" (flagged)" if one["flagged"] else ""),
            str(one["size"]),
            *(MISSING if one[name] is None else f"{one[name]:.{digits[name]}f}" for name in PROXIES),
            MISSING if one["gain"] is None else signed(one["gain"]),
        ]
        for one in figures.tables.iter_rows(named=True)
    ]


def proxy_rows(figures: Figures) -> Rows:
    """One line a proxy: its rank correlation with the gain over the tables, and the gain for a unit with interval."""
    return [
        [
            one["proxy"],
            f"{one['correlation']:+.2f}",
            interval({"mean": one["slope"], "low": one["slope_low"], "high": one["slope_high"]}),
        ]
        for one in figures.proxy_correlations.iter_rows(named=True)
        if one["correlation"] is not None and one["slope"] is not None
    ]


def cold_recall_rows(figures: Figures, names: Names) -> Rows:
    """One line a source: its recall of cold items with interval, and what the main source has over it."""
    lines = []
    for one in figures.cold_recall.iter_rows(named=True):
        ends = "no interval" if one["low"] is None else f"{max(one['low'], 0):.1%} to {min(one['high'], 1):.1%}"
        over = {"mean": one["over"], "low": one["over_low"], "high": one["over_high"]}
        own = MISSING if one["over"] is None else interval(over)
        lines.append([names(one["source"]), f"{one['mean']:.1%} ({ends})", own])
    return lines


def cold_recall_columns(figures: Figures, main: str) -> list[str]:
    """Headings of :func:`cold_recall_rows`."""
    return ["source", *(f"recall@{k}" for k in figures.cold_recall["k"].head(1)), f"{main} over it"]


def cold_recall_note(figures: Figures) -> str:
    """What was retrieved, among how much, and what chance would find; nothing where nothing was."""
    if figures.cold_recall.is_empty():
        return ""
    one = figures.cold_recall.row(0, named=True)
    return (
        f"Share of {one['clicks']:,} test clicks on items never shown in training whose item is among the {one['k']} "
        f"nearest, of {one['items']:,}, to the mean of the user's last clicks, by centred vectors alone. Chance would "
        f"find {one['k'] / one['items']:.1%}; IDs know nothing of such items."
    )


def gate_rows(rows: list[Row], figures: Figures, spec: ComparisonSpec, model: str) -> Rows:
    """One line a category: its gate on the main source's images (mean and spread over seeds) and its impressions.

    The most closed first; nothing where the form that was chosen has no gates.
    """
    key = (spec.main, figures.chosen_form(model, spec.main), model)
    gates: dict[str | None, list[dict[str, Any]]] = {}
    for one in (one for row in rows if row.cell.group == key for one in row.record["form"].get("gates", [])):
        gates.setdefault(one["category"], []).append(one)
    by_gate = sorted(gates.items(), key=lambda pair: np.mean([one["gate"] for one in pair[1]]))
    return [
        [category or "none, or new", mean_and_spread([one["gate"] for one in own]), f"{own[0]['impressions']:,}"]
        for category, own in by_gate
    ]


def validation_rows(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> Rows:
    """One line a source: its mean GAUC on validation in each form, by which the forms are chosen."""
    rows = select(figures.validation, model=model).filter(pl.col("source") != spec.baseline)
    lines = []
    for source in rows["source"].unique(maintain_order=True):
        worth = dict(select(rows, source=source).select("form", "gauc").iter_rows())
        lines.append([names(source), *(f"{worth[form]:.4f}" if form in worth else MISSING for form in spec.forms)])
    return lines


def ceiling_rows(figures: Figures, model: str, names: Names) -> Rows:
    """One line a source: its share of the ceiling's gain on each slice, with the interval."""
    lines: dict[str, dict[str, str]] = {}
    for one in records(figures.ceiling_shares, model=model):
        lines.setdefault(names(one["source"]), {})[one["slice"]] = share(one)
    return [[source, *(own.get(part, MISSING) for part in SLICES)] for source, own in lines.items()]


def cost_rows(rows: list[Row], names: Names) -> Rows:
    """One line a (source, form, model): seconds of one CTR training and its scoring, memory, seconds of the table."""
    lines = []
    for key in dict.fromkeys(row.cell.group for row in rows):
        own = [row.record for row in rows if row.cell.group == key]
        made = (own[0]["table"] or {}).get("seconds")
        spent = np.mean([one["seconds"] for one in own])
        held = [one["peak_memory_mib"]["process"] for one in own if "peak_memory_mib" in one]
        memory, made = f"{max(held):,.0f}" if held else MISSING, MISSING if made is None else f"{made:.1f}"
        lines.append([*(names(part) for part in key), f"{spent:.0f}", memory, made])
    return lines


def detectable_rows(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> Rows:
    """One line a pair of the headline: the smallest true GAUC difference that would be found, on each slice."""
    rows = select(figures.differences, form=spec.headline, model=model, metric=figures.tested)
    lines: dict[str, dict[str, float | None]] = {}
    for one in rows.iter_rows(named=True):
        lines.setdefault(f"{names(one['a'])} − {names(one['b'])}", {})[one["slice"]] = one["detectable"]
    return [
        [pair, *(MISSING if own.get(part) is None else f"{own[part]:.4f}" for part in SLICES)]
        for pair, own in lines.items()
    ]
