"""Charts of the report: (title, SVG) each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from data_tools.common.charts import curves
from downstream.comparison.cells import Row
from downstream.comparison.figures import Figures, records, select
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import SLICES
from downstream.report.plots import Labelled, bars, forest, limits, reliability, spectra
from downstream.report.rows import best_gains, label
from downstream.report.words import METRIC_NAMES, SLICE_NAMES, Names, signed
from downstream.statistics.intervals import Interval

Panels = list[tuple[str, str]]


def interval_of(row: dict[str, Any]) -> Interval:
    """The interval of a row; one of no width where there is none."""
    return Interval(row["mean"], *(row["mean"] if row[end] is None else row[end] for end in ("low", "high")))


class GainChart(NamedTuple):
    """Each source's gain in its best form, the baseline and the ceiling as marks, and the range of the axis."""

    lines: Labelled
    marks: dict[str, Interval]
    span: tuple[float, float]


def gain_chart(figures: Figures, spec: ComparisonSpec, model: str, part: str, names: Names) -> GainChart:
    """The gains over the baseline on one slice; all slices of a model have one order and one range."""
    rows = best_gains(figures, spec, model)
    flag = dict.fromkeys(figures.flagged, ", flagged")
    lines, marks = [], {}
    ground = select(figures.cells, model=model, slice=part, source=spec.baseline)[figures.tested].drop_nulls()
    marks[names(spec.baseline) + (f" {ground.mean():.3f}" if len(ground) else "")] = Interval(0.0, 0.0, 0.0)
    for row in (row for row in rows if row["slice"] == part):
        if row["a"] == spec.ceiling:
            marks[f"{names(row['a'])} {signed(row['mean'], 3)}"] = interval_of(row)
        else:
            lines.append((label(row["a"], row["form"], names) + flag.get(row["a"], ""), interval_of(row)))
    return GainChart(lines, marks, limits([interval_of(row) for row in rows]))


def gain_panels(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> Panels:
    """The chart of :func:`gain_chart` by slice."""
    panels = []
    for part in SLICES:
        chart = gain_chart(figures, spec, model, part, names)
        if chart.lines:
            described = "; ".join(f"{name}: {signed(one.mean)}" for name, one in chart.lines)
            axis = f"{METRIC_NAMES[figures.tested]} gain"
            panels.append((SLICE_NAMES[part], bars(chart.lines, axis, chart.span, chart.marks, described)))
    return panels


def difference_panels(rows: list[dict[str, Any]], names: Names, duel: bool) -> Panels:
    """Differences of the tested metric by slice, all on one scale; of a duel the label names both sides."""
    span, panels = limits([interval_of(row) for row in rows]), []
    for part in SLICES:
        lines = [
            (
                f"{names(row['a'])} − {names(row['b'])}" if duel else label(row["a"], row["form"], names),
                interval_of(row),
            )
            for row in rows
            if row["slice"] == part
        ]
        if lines:
            described = "; ".join(f"{name}: {signed(one.mean)}" for name, one in lines)
            panels.append(
                (SLICE_NAMES[part], forest(lines, f"{METRIC_NAMES[rows[0]['metric']]} difference", span, described))
            )
    return panels


def duels(figures: Figures, spec: ComparisonSpec, model: str) -> list[dict[str, Any]]:
    """GAUC differences of the main source from the other embeddings, each in its form of the headline."""
    rows = records(figures.differences, a=spec.main, form=spec.headline, model=model, metric=figures.tested)
    return [row for row in rows if row["b"] != spec.baseline]


def segment_panels(figures: Figures, model: str) -> Panels:
    """The main source's gain in the parts of the test split, all on one scale."""
    rows, panels = select(figures.segments, model=model), []
    span = limits([interval_of(row) for row in rows.to_dicts()])
    for dimension in rows["dimension"].unique(maintain_order=True):
        lines = [(row["part"], interval_of(row)) for row in records(rows, dimension=dimension)]
        described = "; ".join(f"{name}: {signed(one.mean)}" for name, one in lines)
        panels.append((f"By {dimension}", forest(lines, "GAUC gain", span, described)))
    return panels


def calibration_panel(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str:
    """Predicted against observed click rates of the baseline and the main source, SVG."""
    lines = {}
    for source in (spec.baseline, spec.main):
        own = select(figures.calibration, model=model, source=source)
        if len(own):
            lines[names(source)] = own["predicted"].to_list(), own["observed"].to_list()
    return reliability(lines, f"Predicted and observed click rates: {', '.join(lines)}") if lines else ""


def epoch_panels(rows: list[Row], figures: Figures, model: str, names: Names) -> Panels:
    """Training loss and validation AUC by epoch, mean over seeds; nothing where there is one epoch."""
    lines: dict[str, dict[str, Any]] = {"Training loss": {}, "Validation AUC": {}}
    for source in figures.sources:
        key = (source, figures.chosen_form(model, source), model)
        own = [row.record["epochs"] for row in rows if row.cell.group == key]
        shortest = min((len(epochs) for epochs in own), default=0)
        if shortest > 1:
            by_epoch = list(zip(*(epochs[:shortest] for epochs in own), strict=True))
            epochs, name = range(1, shortest + 1), names(source)
            lines["Training loss"][name] = epochs, [float(np.mean([one["loss"] for one in own])) for own in by_epoch]
            judged = [float(np.mean([one["valid"]["auc"] for one in own])) for own in by_epoch]
            lines["Validation AUC"][name] = epochs, judged
    return [
        (what, curves(own, "epoch", what, f"{what} by epoch: {', '.join(own)}")) for what, own in lines.items() if own
    ]


def spectra_panel(figures: Figures, names: Names) -> str:
    """SVG of the spectra, one table a source."""
    first: dict[str, np.ndarray] = {}
    for one in figures.tables.iter_rows(named=True):
        first.setdefault(names(one["source"]), np.array(one["spectrum"]))
    return spectra(first, "Singular values of the embeddings: " + ", ".join(first)) if first else ""


def training_panels(figures: Figures, names: Names) -> Panels:
    """How the encoders trained, by step, of each source's first run that has the curve."""
    panels = []
    for curve in figures.encoder_curves["curve"].unique(maintain_order=True):
        rows, lines = select(figures.encoder_curves, curve=curve), {}
        for source in rows["source"].unique(maintain_order=True):
            own = select(rows, source=source)
            own = select(own, run=own["run"][0])
            lines[names(source)] = own["step"].to_list(), own["value"].to_list()
        panels.append((curve, curves(lines, "step", "", f"{curve} by step: {', '.join(lines)}")))
    return panels
