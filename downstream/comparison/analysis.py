"""From the rows of a comparison to its figures: metrics of every cell, differences with intervals, attainable lift."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from rich.progress import Progress

from downstream.comparison.cells import Row
from downstream.comparison.figures import Figures, frame, record
from downstream.comparison.spec import BEST, NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES, CTRData
from downstream.statistics.intervals import (
    METRICS,
    BootstrapSettings,
    bootstrap_metrics,
    detectable,
    holm,
    paired_interval,
    share_interval,
)
from downstream.statistics.metrics import all_metrics, calibration, ndcg

NDCG_AT = 10
Group = tuple[str, str, str]  # source, form, model
Draws = dict[tuple[Group, str, str], tuple[np.ndarray, np.ndarray]]  # by slice and metric: (S,) and (S, resamples)


def grouped(rows: list[Row]) -> dict[Group, list[Row]]:
    """The rows of each (source, form, model), one a seed."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.cell.group, []).append(row)
    return groups


def validation(rows: list[Row]) -> pl.DataFrame:
    """Mean GAUC (AUC where it is undefined) of each source, form and model on validation."""
    found = []
    for (source, form, model), own in grouped(rows).items():
        valid = [row.record["metrics"]["valid"]["all"] for row in own]
        values = [metrics["auc"] if metrics["gauc"] is None else metrics["gauc"] for metrics in valid]
        found.append({"source": source, "form": form, "model": model, "gauc": float(np.mean(values))})
    return frame("validation", found)


def choose_forms(rows: list[Row]) -> dict[str, dict[str, str]]:
    """model -> source -> the form that is best on validation; of equal ones the first."""
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    for one in validation(rows).iter_rows(named=True):
        best = chosen.setdefault(one["model"], {})
        if one["source"] not in best or one["gauc"] > best[one["source"]]["gauc"]:
            best[one["source"]] = one
    return {model: {source: one["form"] for source, one in best.items()} for model, best in chosen.items()}


def cell_metrics(rows: list[Row], data: CTRData) -> pl.DataFrame:
    """The metrics of every cell in every slice of the test split; undefined ones are null."""
    parts, split = data.slices("test"), data.rows["test"]
    request = data.dataset.impressions["request"].to_numpy()[split]
    found = []
    for row, part in product(rows, SLICES):
        own = parts[part]
        ranked = _page_metrics(data.click[split][own], row.test_scores[own], request[own])
        found.append({**row.cell.names(), "slice": part, **row.record["metrics"]["test"][part], **ranked})
    return frame("cells", found)


def _page_metrics(click: np.ndarray, score: np.ndarray, request: np.ndarray) -> dict[str, float | None]:
    """NDCG of the page views and expected calibration error; None where undefined."""
    return {
        "ndcg": ndcg(click, score, request, NDCG_AT) if click.any() else None,
        "ece": calibration(click, score).error if len(click) else None,
    }


def calibration_curves(rows: list[Row], data: CTRData, chosen: dict[str, dict[str, str]]) -> pl.DataFrame:
    """Predicted and observed click rates of each source in its best form, the cells of all seeds pooled."""
    click, groups, found = data.click[data.rows["test"]], grouped(rows), []
    for model, forms in chosen.items():
        for source, form in forms.items():
            own = groups[source, form, model]
            curve = calibration(np.tile(click, len(own)), np.concatenate([row.test_scores for row in own]))
            names = {"source": source, "form": form, "model": model}
            columns = zip(curve.predicted, curve.observed, curve.impressions, strict=True)
            for number, (predicted, observed, impressions) in enumerate(columns):
                values = {"predicted": float(predicted), "observed": float(observed), "impressions": int(impressions)}
                found.append(names | {"bin": number} | values)
    return frame("calibration", found)


def _draws(groups: dict[Group, list[Row]], data: CTRData, settings: BootstrapSettings, progress: Progress) -> Draws:
    """(group, slice, metric) -> its values (S,) and bootstrap draws (S, resamples); undefined ones are left out."""
    rows = data.rows["test"]
    click, parts = data.click[rows], data.slices("test")
    people, user = np.unique(data.user[rows], return_inverse=True)
    found = {}
    work = [(group, part) for group, part in product(groups, SLICES) if parts[part].any()]
    for group, part in progress.track(work, description="intervals"):
        own, kept = groups[group], parts[part]
        draws = [
            bootstrap_metrics(click[kept], row.test_scores[kept], user[kept], len(people), settings) for row in own
        ]
        for metric in METRICS:
            values = [row.record["metrics"]["test"][part][metric] for row in own]
            if None not in values:
                found[group, part, metric] = np.array(values), np.stack([draw[metric] for draw in draws])
    return found


def _in_best_form(draws: Draws, chosen: dict[str, dict[str, str]]) -> Draws:
    """The draws, and again with each source's best form under the name "best"; what has no form stands under both."""
    best = {
        ((source, BEST, model), part, metric): own
        for ((source, form, model), part, metric), own in draws.items()
        if chosen[model][source] == form
    }
    return draws | best


def _differences(
    draws: Draws, chosen: dict[str, dict[str, str]], spec: ComparisonSpec, settings: BootstrapSettings
) -> list[dict[str, Any]]:
    forms = [*spec.forms, BEST] if len(spec.forms) > 1 else spec.forms
    sources = list(dict.fromkeys(source for (source, _, _), _, _ in draws))

    def find(source: str, form: str, model: str, part: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        own = draws.get(((source, form, model), part, metric))
        return draws.get(((source, NO_FORM, model), part, metric)) if own is None else own

    differences = []
    for model, form, (a, b), part, metric in product(chosen, forms, spec.pairs(sources), SLICES, METRICS):
        ours, theirs = find(a, form, model, part, metric), find(b, form, model, part, metric)
        if ours is None or theirs is None:
            continue
        interval = paired_interval(ours[0], theirs[0], ours[1], theirs[1], settings)
        names = {"a": a, "b": b, "form": form, "model": model, "slice": part, "metric": metric}
        differences.append(names | asdict(interval) | {"p": interval.p})
    _correct(differences, 1 - settings.level)
    return differences


def _ceiling_shares(
    draws: Draws, chosen: dict[str, dict[str, str]], spec: ComparisonSpec, settings: BootstrapSettings
) -> list[dict[str, Any]]:
    """How much of the ceiling's gain in GAUC each source has, in their best forms, where that gain is above zero."""
    shares = []
    for (model, best), part in product(chosen.items(), SLICES):
        ground, top = (draws.get(((one, BEST, model), part, "gauc")) for one in (spec.baseline, spec.ceiling))
        if ground is None or top is None:
            continue
        if paired_interval(top[0], ground[0], top[1], ground[1], settings).low <= 0:
            continue
        for source in best:
            own = draws.get(((source, BEST, model), part, "gauc"))
            if source in (spec.baseline, spec.ceiling) or own is None:
                continue
            gains = [one[place] - ground[place] for place in (0, 1) for one in (own, top)]
            found = share_interval(*gains, settings)
            names = {"source": source, "model": model, "slice": part}
            shares.append(names | {"share": found.mean, "low": found.low, "high": found.high})
    return shares


def _correct(differences: list[dict[str, Any]], error: float) -> None:
    """Add Holm's p-values, and ``direction``: 1 or -1 for a difference that is significant after Holm, else 0.

    A family is what a reader takes in at one look: one metric on one slice, all forms or those of the headline.
    """
    families: dict[tuple[bool, str, str], list[dict[str, Any]]] = {}
    for row in differences:
        families.setdefault((row["form"] == BEST, row["metric"], row["slice"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
            apart = p < error and not row["low"] <= 0 <= row["high"]
            row["direction"] = int(np.sign(row["mean"])) if apart else 0


def detectable_effects(differences: pl.DataFrame, spec: ComparisonSpec, settings: BootstrapSettings) -> pl.DataFrame:
    """The smallest true difference from the baseline that the test split would show.

    From the median spread of the differences, whatever they are themselves, at 80 % power and before Holm.
    """
    against = differences.filter(pl.col("b") == spec.baseline, pl.col("form") != BEST)
    groups = against.group_by("model", "slice", "metric", maintain_order=True).agg(pl.col("spread").median())
    rows = groups.to_dicts()
    return frame("detectable", [row | {"effect": detectable(row["spread"], settings.level)} for row in rows])


def oracle_metrics(data: CTRData) -> pl.DataFrame:
    """Metrics of the true click probabilities on the test split; empty where the dataset does not know them."""
    impressions = data.dataset.impressions
    if "oracle" not in impressions.columns:
        return frame("oracle", [])
    rows = data.rows["test"]
    oracle, request = (impressions[name].to_numpy()[rows] for name in ("oracle", "request"))
    click, user = data.click[rows], data.user[rows]
    found = []
    for part, own in data.slices("test").items():
        metrics = all_metrics(click[own], oracle[own], user[own])
        found.append({"slice": part, **metrics, **_page_metrics(click[own], oracle[own], request[own])})
    return frame("oracle", found)


def attainable(cells: pl.DataFrame, oracle: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """Share of the lift that the oracle leaves to be had, (AUC - AUC_baseline) / (AUC_oracle - AUC_baseline)."""
    if oracle.is_empty():
        return frame("attainable", [])
    shares = []
    keys = ["source", "form", "model", "slice"]
    for metric in ("auc", "gauc"):
        defined = pl.col(metric).is_not_null().all()
        means = (
            cells.group_by(keys, maintain_order=True)
            .agg(value=pl.when(defined).then(pl.col(metric).mean()))
            .drop_nulls()
        )
        for one in means.filter(pl.col("source") != baseline).to_dicts():
            ground = record(means, source=baseline, model=one["model"], slice=one["slice"])
            top = record(oracle, slice=one["slice"])[metric]
            if ground and top is not None and top > ground["value"]:
                share = (one["value"] - ground["value"]) / (top - ground["value"])
                shares.append(one | {"metric": metric, "share": share})
    return frame("attainable", shares)


def analyse(
    rows: list[Row], data: CTRData, spec: ComparisonSpec, settings: BootstrapSettings, progress: Progress
) -> Figures:
    """The figures of a comparison that follow from its cells; see :class:`Figures`."""
    cells, oracle, chosen = cell_metrics(rows, data), oracle_metrics(data), choose_forms(rows)
    draws = _in_best_form(_draws(grouped(rows), data, settings, progress), chosen)
    differences = frame("differences", _differences(draws, chosen, spec, settings))
    forms = [
        {"source": source, "form": form, "model": model}
        for model, own in chosen.items()
        for source, form in own.items()
    ]
    return Figures(
        cells=cells,
        differences=differences,
        detectable=detectable_effects(differences, spec, settings),
        validation=validation(rows),
        chosen=frame("chosen", forms),
        ceiling_shares=frame("ceiling_shares", _ceiling_shares(draws, chosen, spec, settings)),
        oracle=oracle,
        attainable=attainable(cells, oracle, spec.baseline),
        calibration=calibration_curves(rows, data, chosen),
        bootstrap=asdict(settings),
    )
