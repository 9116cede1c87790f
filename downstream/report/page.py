"""The report of a comparison: verdict first, then gains, metrics, pictures, how it was measured, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.common import pages
from data_tools.common.files import whole_file
from downstream.comparison.cells import Row
from downstream.comparison.figures import Figures
from downstream.comparison.proxies import PROXIES
from downstream.comparison.spec import NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES, CTRData
from downstream.report.encoder_runs import COLUMNS, training_rows
from downstream.report.method import GLOSSARY, compared, limitations, measured, splits, sure
from downstream.report.panels import (
    calibration_panel,
    difference_panels,
    duels,
    epoch_panels,
    gain_panels,
    segment_panels,
    spectra_panel,
    training_panels,
)
from downstream.report.rows import (
    ATTAINABLE,
    METRIC_COLUMNS,
    ceiling_rows,
    cold_recall_columns,
    cold_recall_note,
    cold_recall_rows,
    cost_rows,
    detectable_rows,
    difference_rows,
    gains,
    gate_rows,
    heat_map,
    metric_rows,
    model_rows,
    proxy_rows,
    table_rows,
    validation_rows,
)
from downstream.report.thumbnails import Pictured, attended, strips, thumbnails
from downstream.report.verdict import verdict
from downstream.report.words import METRIC_NAMES, SLICE_NAMES, Names


def _model(figures: Figures, rows: list[Row], spec: ComparisonSpec, model: str, names: Names) -> dict[str, Any]:
    """What the templates show of one CTR model."""
    several, against = len(spec.forms) > 1, duels(figures, spec, model)
    forms = {source: figures.chosen_form(model, source) for source in figures.sources}
    return {
        "name": names(model),
        "forms": [f"{names(source)} {names(form)}" for source, form in forms.items() if form != NO_FORM],
        "detectable": detectable_rows(figures, spec, model, names),
        "validation": validation_rows(figures, spec, model, names) if several else [],
        "ceiling": ceiling_rows(figures, model, names),
        "heat": heat_map(figures, spec, model, names) if several else None,
        "segments": segment_panels(figures, model),
        "gates": gate_rows(rows, figures, spec, model),
        "epochs": epoch_panels(rows, figures, model, names),
        "gains": gain_panels(figures, spec, model, names),
        "by_form": difference_panels(gains(figures, spec, model), names, duel=False) if several else [],
        "duels": difference_panels(against, names, duel=True) if against else [],
        "calibration": calibration_panel(figures, spec, model, names),
        "metrics": [(SLICE_NAMES[part], metric_rows(figures, model, part, names)) for part in SLICES],
    }


def report_context(
    figures: Figures,
    rows: list[Row],
    data: CTRData,
    spec: ComparisonSpec,
    *,
    title: str,
    training: dict[str, Any],
    pictured: dict[str, list[Path]],
) -> dict[str, Any]:
    """What the templates show.

    Parameters
    ----------
    figures, rows, data, spec
        What was found and what was compared.
    title : str
        Of the report.
    training : dict
        The settings of the CTR trainings.
    pictured : dict of str to list of Path
        Source -> tables whose neighbours are shown; empty for no pictures.
    """
    names = Names(spec.names)
    return {
        "title": title,
        "verdict": verdict(figures, spec),
        "main": names(spec.main),
        "ceiling": names(spec.ceiling) if spec.ceiling else None,
        "baseline": names(spec.baseline),
        "others": [names(source) for source in figures.sources if source != spec.baseline],
        "several_forms": len(spec.forms) > 1,
        "metric": METRIC_NAMES[figures.tested],
        "level": f"{figures.bootstrap['level']:.0%}",
        "slice_names": [SLICE_NAMES[part].lower() for part in SLICES],
        "metric_columns": METRIC_COLUMNS if figures.oracle.is_empty() else [*METRIC_COLUMNS, ATTAINABLE],
        "models": [_model(figures, rows, spec, model, names) for model in figures.models],
        "side_by_side": model_rows(figures, spec, names),
        "differences": difference_rows(figures, names),
        **_of_encoders(figures, names),
        **_of_tables(figures, spec, names),
        **_of_pictures(Pictured(data, {names(source): own for source, own in pictured.items()})),
        "costs": cost_rows(rows, names),
        "compared": compared(figures, rows, data, spec, names),
        "sure": sure(figures, data),
        "glossary": GLOSSARY,
        "splits": splits(data),
        "measured": measured(figures, rows, data, training, names),
        "limitations": limitations(figures, data, names),
    }


def _of_encoders(figures: Figures, names: Names) -> dict[str, Any]:
    """How the encoders were trained."""
    return {
        "training_curves": training_panels(figures, names),
        "training_columns": COLUMNS,
        "training_runs": training_rows(figures.encoder_runs, names),
    }


def _of_tables(figures: Figures, spec: ComparisonSpec, names: Names) -> dict[str, Any]:
    """The embedding tables by themselves."""
    return {
        "tables": table_rows(figures, names),
        "proxies": PROXIES,
        "exchange": proxy_rows(figures),
        "spectra": spectra_panel(figures, names),
        "cold_recall": cold_recall_rows(figures, names),
        "cold_recall_columns": cold_recall_columns(figures, names(spec.main)),
        "cold_recall_note": cold_recall_note(figures),
    }


def _of_pictures(pictures: Pictured) -> dict[str, Any]:
    """Pictures of items: nearest neighbours, and what attention picks from histories."""
    alike, picked = strips(pictures), attended(pictures)
    return {"strips": alike, "attended": picked, "thumbnails": thumbnails(alike + picked)}


def write_page(path: Path, template: str, context: dict[str, Any]) -> None:
    """Write a report from one of ``downstream/report/templates``."""
    with whole_file(path) as scratch:
        scratch.write_text(pages.render(template, context, Path(__file__).parent / "templates"), encoding="utf-8")
