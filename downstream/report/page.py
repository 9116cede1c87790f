"""The report of a comparison: verdict first, then gains, metrics, pictures, how it was measured, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from data_tools.common.charts import TEMPLATES, curves
from data_tools.measures.spread import mean_and_spread
from downstream.comparison.analysis import BEST, Contestants
from downstream.comparison.cells import NO_FORM, Row
from downstream.comparison.proxies import PROXIES
from downstream.data.ctr_data import SLICES, CTRData
from downstream.report.encoder_runs import COLUMNS, training_curves, training_rows
from downstream.report.method import limitations, measured, splits
from downstream.report.plots import forest, limits, spectra
from downstream.report.thumbnails import Pictured, attended, strips, thumbnails
from downstream.report.verdict import signed, verdict
from downstream.statistics.intervals import METRICS, Interval

FOREST_LINES = 24  # lines that a forest plot holds before only each source's best form is drawn
METRIC_NAMES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
METRIC_COLUMNS = ["source, form", *METRIC_NAMES.values(), "of attainable GAUC gain"]  # the last, where it is known
SLICE_NAMES = {
    "all": "All test impressions",
    "warm": "Items shown in training",
    "cold": "Items never shown in training",
}


def _label(source: str, form: str) -> str:
    return source if form == NO_FORM else f"{source}, {form}"


def _panels(figures: dict[str, Any], chosen: list[dict], duel: bool) -> list[tuple[str, str]]:
    """(slice name, SVG) of GAUC differences, all on one scale; of a duel the label names both sides."""
    intervals = [Interval(row["mean"], row["low"], row["high"]) for row in chosen]
    panels = []
    for part in SLICES:
        lines = [
            (f"{row['a']} − {row['b']}" if duel else _label(row["a"], row["form"]), interval)
            for row, interval in zip(chosen, intervals, strict=True)
            if row["slice"] == part
        ]
        if lines:
            described = "; ".join(f"{label}: {signed(one.mean)}" for label, one in lines)
            panels.append((SLICE_NAMES[part], forest(lines, "GAUC difference", limits(intervals), described)))
    return panels


def _gains(figures: dict[str, Any], who: Contestants, model: str, best: bool = False) -> list[dict]:
    """GAUC differences from the baseline, every source in every form, or each in its best one, which is named."""
    wanted = (who.baseline, model, "gauc")
    rows = [row for row in figures["differences"] if (row["b"], row["model"], row["metric"]) == wanted]
    if best:
        chosen = figures["chosen"][model]
        found = [{**row, "form": chosen[row["a"]]} for row in rows if row["form"] == BEST]
        return sorted(found, key=lambda row: list(chosen).index(row["a"]))
    return [row for row in rows if row["form"] != BEST]


def _model_rows(figures: dict[str, Any], who: Contestants) -> list[tuple[str, list[list[str]]]]:
    """(slice name, lines): one line a model with the baseline's GAUC and each source's gain; nothing of one model."""
    if len(figures["chosen"]) == 1:
        return []
    others = _others(figures, who)
    found = []
    for part in SLICES:
        lines = []
        for model in figures["chosen"]:
            cells = [cell for cell in figures["cells"] if (cell["model"], cell["slice"]) == (model, part)]
            line = [model, mean_and_spread([cell["gauc"] for cell in cells if cell["source"] == who.baseline])]
            for source in others:
                wanted = (source, who.baseline, who.headline(), model, part, "gauc")
                keys = ("a", "b", "form", "model", "slice", "metric")
                gains = [row for row in figures["differences"] if tuple(row[key] for key in keys) == wanted]
                line.append(_difference(gains[0]) if gains else "–")
            lines.append(line)
        if any(cell != "–" for line in lines for cell in line[1:]):
            found.append((SLICE_NAMES[part], lines))
    return found


def _others(figures: dict[str, Any], who: Contestants) -> list[str]:
    """The sources but the baseline."""
    return [source for source in dict.fromkeys(cell["source"] for cell in figures["cells"]) if source != who.baseline]


def _difference(row: dict) -> str:
    """A difference with its interval, and a star where Holm leaves it."""
    return f"{signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])}){' *' * abs(row['direction'])}"


def _duels(figures: dict[str, Any], who: Contestants, model: str) -> list[dict]:
    """GAUC differences of the main source from the other embeddings, each in its form of the headline."""
    wanted = (who.main, who.headline(), model, "gauc")
    rows = [row for row in figures["differences"] if (row["a"], row["form"], row["model"], row["metric"]) == wanted]
    return [row for row in rows if row["b"] != who.baseline]


def _metric_rows(figures: dict[str, Any], model: str, part: str) -> list[list[str]]:
    """``METRIC_COLUMNS``, one line a (source, form): the metrics over seeds, share of the attainable lift in GAUC."""
    cells = [cell for cell in figures["cells"] if (cell["model"], cell["slice"]) == (model, part)]
    lines = []
    for source, form in dict.fromkeys((cell["source"], cell["form"]) for cell in cells):
        own = [cell for cell in cells if (cell["source"], cell["form"]) == (source, form)]
        key = (source, form, model, part, "gauc")
        share = [
            one["share"]
            for one in figures["attainable"]
            if (one["source"], one["form"], one["model"], one["slice"], one["metric"]) == key
        ]
        values = [mean_and_spread([cell[metric] for cell in own]) for metric in METRICS]
        lines.append([_label(source, form), *values, f"{share[0]:.0%}" if share else "–"])
    if figures["oracle"]:
        values = [mean_and_spread([figures["oracle"][part][metric]]) for metric in METRICS]
        lines.append(["oracle (true click probabilities)", *values, "–"])
    return lines if figures["oracle"] else [line[:-1] for line in lines]


def _difference_rows(figures: dict[str, Any]) -> list[list[str]]:
    """One line a (pair, form, model, metric), the slices side by side; a star where Holm leaves a difference."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in figures["differences"]:
        names = f"{row['a']} − {row['b']}", row["form"], row["model"], METRIC_NAMES[row["metric"]]
        lines.setdefault(names, {})[row["slice"]] = _difference(row)
    return [[*names, *(values.get(part, "–") for part in SLICES)] for names, values in lines.items()]


def _heat(figures: dict[str, Any], who: Contestants, model: str) -> dict[str, Any]:
    """GAUC gain over the baseline on all test impressions, form by form; the shade is its share of the largest."""
    rows = [row for row in _gains(figures, who, model) if row["slice"] == "all"]
    largest = max((abs(row["mean"]) for row in rows), default=0) or 1.0
    cells = {
        (row["a"], row["form"]): {
            "text": signed(row["mean"]) + " *" * abs(row["direction"]),
            "shade": round(60 * abs(row["mean"]) / largest),
            "colour": "var(--better)" if row["mean"] > 0 else "var(--worse)",
        }
        for row in rows
    }
    sources = dict.fromkeys(source for source, _ in cells)
    nothing = {"text": "–", "shade": 0, "colour": "var(--muted)"}
    grid = {source: [cells.get((source, form), nothing) for form in who.forms] for source in sources}
    return {"forms": who.forms, "sources": grid}


def _slice_panels(figures: dict[str, Any], who: Contestants, model: str) -> list[tuple[str, str]]:
    """(dimension, SVG) of the main source's gain in the parts of the test split, all on one scale."""
    rows = [row for row in figures["slices"] if row["model"] == model]
    span = limits([Interval(row["mean"], row["low"], row["high"]) for row in rows])
    panels = []
    for dimension in dict.fromkeys(row["dimension"] for row in rows):
        own = [row for row in rows if row["dimension"] == dimension]
        lines = [(row["part"], Interval(row["mean"], row["low"], row["high"])) for row in own]
        described = "; ".join(f"{label}: {signed(one.mean)}" for label, one in lines)
        panels.append((f"By {dimension}", forest(lines, "GAUC gain", span, described)))
    return panels


def _table_rows(figures: dict[str, Any]) -> list[list[str]]:
    """One line a table: source, size, its proxies and the gain; below them how each proxy goes with the gain."""
    lines = [
        [
            one["source"] + (" (flagged)" if one["flagged"] else ""),
            str(one["size"]),
            *(f"{one[name]:.4f}" for name in PROXIES[:-1]),
            f"{one[PROXIES[-1]]:.1f}",
            signed(one["gain"]) if one["gain"] is not None else "–",
        ]
        for one in figures["tables"]
    ]
    told = [figures["foretold"][name] for name in PROXIES]
    if lines and None not in told:
        lines.append(["rank correlation with the gain", "", *(f"{value:+.2f}" for value in told), ""])
    return lines


def _spectra(figures: dict[str, Any]) -> str:
    """SVG of the spectra, one table a source."""
    first: dict[str, np.ndarray] = {}
    for one in figures["tables"]:
        first.setdefault(one["source"], np.array(one["spectrum"]))
    return spectra(first, "Singular values of the embeddings: " + ", ".join(first)) if first else ""


def _gates(rows: list[Row], figures: dict[str, Any], who: Contestants, model: str) -> list[list[str]]:
    """One line a category: its gate on the main source's images (mean and spread over seeds) and its impressions.

    The most closed first; nothing where the form that was chosen has no gates.
    """
    key = (who.main, figures["chosen"][model][who.main], model)
    gates: dict[str | None, list[dict]] = {}
    for one in (one for row in rows if _key(row) == key for one in row.record["form"].get("gates", [])):
        gates.setdefault(one["category"], []).append(one)
    by_gate = sorted(gates.items(), key=lambda pair: np.mean([one["gate"] for one in pair[1]]))
    return [
        [category or "none, or new", mean_and_spread([one["gate"] for one in own]), f"{own[0]['impressions']:,}"]
        for category, own in by_gate
    ]


def _epoch_curves(rows: list[Row], figures: dict[str, Any], model: str) -> list[tuple[str, str]]:
    """(what, SVG) of training loss and validation AUC by epoch, mean over seeds; nothing where there is one epoch."""
    lines: dict[str, dict[str, list[float]]] = {"Training loss": {}, "Validation AUC": {}}
    for source, form in figures["chosen"][model].items():
        own = [row.record["epochs"] for row in rows if _key(row) == (source, form, model)]
        shortest = min(len(epochs) for epochs in own)
        if shortest > 1:
            by_epoch = list(zip(*(epochs[:shortest] for epochs in own), strict=True))
            epochs = range(1, shortest + 1)
            losses = [float(np.mean([one["loss"] for one in seeds])) for seeds in by_epoch]
            judged = [float(np.mean([one["valid"]["auc"] for one in seeds])) for seeds in by_epoch]
            lines["Training loss"][source], lines["Validation AUC"][source] = (epochs, losses), (epochs, judged)
    return [
        (what, curves(own, "epoch", what, f"{what} by epoch: {', '.join(own)}")) for what, own in lines.items() if own
    ]


def _validation_rows(figures: dict[str, Any], who: Contestants, model: str) -> list[list[str]]:
    """One line a source: its mean GAUC on validation in each form, by which the forms are chosen."""
    worth = figures["validation"][model]
    own = {source: forms for source, forms in worth.items() if source != who.baseline}
    return [[name, *(f"{forms[f]:.4f}" if f in forms else "–" for f in who.forms)] for name, forms in own.items()]


def _ceiling_rows(figures: dict[str, Any], model: str) -> list[list[str]]:
    """One line a source: its share of the ceiling's gain on each slice, with the interval."""
    lines: dict[str, dict[str, str]] = {}
    for one in figures["of_the_ceiling"]:
        if one["model"] == model:
            told = f"{one['share']:.0%} ({one['low']:.0%} to {one['high']:.0%})"
            lines.setdefault(one["source"], {})[one["slice"]] = told
    return [[source, *(own.get(part, "–") for part in SLICES)] for source, own in lines.items()]


def _key(row: Row) -> tuple[str, str, str]:
    return row.cell.source, row.cell.form, row.cell.model


def _cost_rows(rows: list[Row]) -> list[list[str]]:
    """One line a (source, form, model): seconds of one CTR training and its scoring, memory, seconds of the table."""
    lines = []
    for key in dict.fromkeys(_key(row) for row in rows):
        own = [row.record for row in rows if _key(row) == key]
        made = (own[0]["table"] or {}).get("seconds")
        spent = np.mean([record["seconds"] for record in own])
        held = [record["peak_memory_mib"]["process"] for record in own if "peak_memory_mib" in record]
        memory, made = f"{max(held):,.0f}" if held else "–", "–" if made is None else f"{made:.1f}"
        lines.append([*key, f"{spent:.0f}", memory, made])
    return lines


def _detectable(figures: dict[str, Any], model: str) -> str:
    """What the test split can show, in words."""
    parts = [
        f"{figures['detectable'][model][part]['gauc']:.4f} on {SLICE_NAMES[part][0].lower() + SLICE_NAMES[part][1:]}"
        for part in SLICES
        if "gauc" in figures["detectable"].get(model, {}).get(part, {})
    ]
    return f"GAUC differences that would be found four times in five: {', '.join(parts)}." if parts else ""


def report_context(
    figures: dict[str, Any],
    rows: list[Row],
    data: CTRData,
    who: Contestants,
    title: str,
    training: dict[str, Any],
    pictured: dict[str, list[Path]],
) -> dict[str, Any]:
    """What the templates show.

    Parameters
    ----------
    figures : of ``comparison.analysis.analyse``, ``comparison.segment_gains.gains_by_slice`` ("slices"),
        ``comparison.tables.look_at_tables`` and ``report.encoder_runs.pretraining`` ("pretraining"), with "bootstrap"
        and "made_by"
    rows, data, who : what was compared
    title : of the report
    training : the settings of the CTR trainings as a dict
    pictured : source -> tables whose neighbours are shown; empty for no pictures
    """
    models, pictures = [], Pictured(data, pictured)
    alike, picked = strips(pictures), attended(pictures)
    for model in figures["chosen"]:
        duels, gains = _duels(figures, who, model), _gains(figures, who, model)
        crowded = len(gains) > FOREST_LINES * len(SLICES)
        models.append(
            {
                "name": model,
                "detectable": _detectable(figures, model),
                "validation": _validation_rows(figures, who, model) if len(who.forms) > 1 else [],
                "ceiling": _ceiling_rows(figures, model),
                "heat": _heat(figures, who, model) if len(who.forms) > 1 else None,
                "slices": _slice_panels(figures, who, model),
                "gates": _gates(rows, figures, who, model),
                "epochs": _epoch_curves(rows, figures, model),
                "crowded": crowded,
                "gains": _panels(figures, _gains(figures, who, model, best=True) if crowded else gains, duel=False),
                "duels": _panels(figures, duels, duel=True) if duels else [],
                "metrics": [(SLICE_NAMES[part], _metric_rows(figures, model, part)) for part in SLICES],
            }
        )
    return {
        "title": title,
        "verdict": verdict(figures, who),
        "main": who.main,
        "ceiling": who.ceiling,
        "baseline": who.baseline,
        "models": models,
        "slice_names": [SLICE_NAMES[part].lower() for part in SLICES],
        "metric_columns": METRIC_COLUMNS if figures["oracle"] else METRIC_COLUMNS[:-1],
        "side_by_side": _model_rows(figures, who),
        "others": _others(figures, who),
        "chosen": figures["chosen"],
        "several_forms": len(who.forms) > 1,
        "level": f"{figures['bootstrap']['level']:.0%}",
        "differences": _difference_rows(figures),
        "training_curves": training_curves(figures["pretraining"]),
        "training_columns": COLUMNS,
        "training_runs": training_rows(figures["pretraining"]),
        "costs": _cost_rows(rows),
        "tables": _table_rows(figures),
        "proxies": PROXIES,
        "spectra": _spectra(figures),
        "strips": alike,
        "attended": picked,
        "thumbnails": thumbnails(alike + picked),
        "splits": splits(data),
        "measured": measured(figures, rows, data, training),
        "limitations": limitations(figures, rows, data),
    }


def render(template: str, context: dict[str, Any]) -> str:
    """A report from one of ``downstream/templates``; HTML is escaped, a name missing in the context is an error."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", TEMPLATES]),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)
