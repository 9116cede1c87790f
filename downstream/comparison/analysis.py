"""From the rows of a comparison to its figures: metrics of every cell, differences with intervals, attainable lift."""

from __future__ import annotations

from collections.abc import Sequence
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
from downstream.statistics.bootstrap import METRICS, BootstrapSettings, bootstrap_metrics
from downstream.statistics.intervals import Cells, difference_interval, holm, share_interval
from downstream.statistics.metrics import all_metrics, calibration, group_auc, ndcg

NDCG_AT = 10
Group = tuple[str, str, str]  # source, form, model
Measured = dict[tuple[Group, str, str], Cells]  # by slice and metric


def grouped(rows: list[Row]) -> dict[Group, list[Row]]:
    """The rows of each (source, form, model), one a pair of pre-training seed and CTR seed."""
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
    found = [
        {**row.cell.names(), "slice": part, **_metrics(row.test_scores, data, own)}
        for row in rows
        for part, own in data.slices("test").items()
    ]
    return frame("cells", found)


def _metrics(scores: np.ndarray, data: CTRData, kept: np.ndarray) -> dict[str, float | None]:
    """All metrics of the ``kept`` test impressions (a mask) by the scores of all of them; None where undefined."""
    rows = data.rows["test"][kept]
    click, request = data.click[rows], data.dataset.impressions["request"].to_numpy()[rows]
    return {
        **all_metrics(click, scores[kept], data.user[rows]),
        "ndcg": ndcg(click, scores[kept], request, NDCG_AT) if click.any() else None,
        "ece": calibration(click, scores[kept]).error if len(click) else None,
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


def measure(
    own: list[Row], data: CTRData, kept: np.ndarray, settings: BootstrapSettings, metrics: Sequence[str] = METRICS
) -> dict[str, Cells]:
    """Metric -> the cells of one group on the ``kept`` test impressions (a mask); undefined metrics are left out."""
    rows = data.rows["test"]
    people, user = np.unique(data.user[rows], return_inverse=True)
    click, user = data.click[rows][kept], user[kept]
    both = group_auc(click, np.zeros(len(click)), user).defined
    users = {"gauc": int(both.sum()), "auc": len(both), "log_loss": len(both)}
    values = [all_metrics(click, row.test_scores[kept], user) for row in own]
    draws = bootstrap_metrics(click, np.stack([row.test_scores[kept] for row in own]), user, len(people), settings)
    encoder, seed = (np.array([getattr(row.cell, name) for row in own]) for name in ("encoder", "seed"))
    found = {}
    for metric in metrics:
        defined = np.isfinite(draws[metric]).all(axis=0)  # by the users drawn alone: the same for every source
        if defined.any() and all(value[metric] is not None for value in values):
            point = np.array([value[metric] for value in values])
            found[metric] = Cells(point, draws[metric][:, defined], encoder, seed, users[metric])
    return found


def _measured(
    groups: dict[Group, list[Row]], data: CTRData, settings: BootstrapSettings, progress: Progress
) -> Measured:
    parts = data.slices("test")
    work = [(group, part) for group, part in product(groups, SLICES) if parts[part].any()]
    return {
        (group, part, metric): cells
        for group, part in progress.track(work, description="intervals")
        for metric, cells in measure(groups[group], data, parts[part], settings).items()
    }


def differences(
    measured: Measured, chosen: dict[str, dict[str, str]], spec: ComparisonSpec, settings: BootstrapSettings
) -> pl.DataFrame:
    """Every difference of the comparison with its interval, tested as :class:`Figures` says.

    Parameters
    ----------
    measured : dict
        (group, slice, metric) -> cells.
    chosen : dict
        Model -> source -> its best form; "best" takes each source in that.
    """
    forms = [*spec.forms, BEST] if len(spec.forms) > 1 else spec.forms
    sources = list(dict.fromkeys(source for (source, _, _), _, _ in measured))
    primary = spec.primary and (
        spec.main,
        spec.primary.against,
        spec.primary.slice,
        spec.primary.model or next(iter(chosen)),
    )
    tests, rows = [], []
    for model, form, (a, b), part, metric in product(chosen, forms, spec.pairs(sources), SLICES, METRICS):
        own = [(source, chosen[model][source] if form == BEST else form) for source in (a, b)]
        own = [(source, NO_FORM) if chosen[model][source] == NO_FORM else (source, one) for source, one in own]
        sides = [measured.get(((*one, model), part, metric)) for one in own]
        if None in sides:
            continue
        declared = form == spec.headline and metric == "gauc" and (a, b, part, model) == primary
        names = {"a": a, "b": b, "form": form, "model": model, "slice": part, "metric": metric, "primary": declared}
        tests.append((*own, model, part, metric))
        rows.append(names | asdict(difference_interval(*sides, settings)))
    correct(rows, tests, 1 - settings.level)
    return frame("differences", rows)


def correct(rows: list[dict[str, Any]], tests: list[tuple], error: float) -> None:
    """Add Holm's p-values and ``direction`` over all differences of the tested metric; the same test counts once.

    A declared difference has half of the error to itself (Holm's weighted procedure), so that the chance of any false
    star in the report stays below ``error``, with or without a declared one.
    """
    metric = "gauc" if any(row["metric"] == "gauc" for row in rows) else "auc"
    family: dict[tuple, dict[str, Any]] = {}
    for row, test in zip(rows, tests, strict=True):
        row |= {"p_holm": None, "direction": 0}
        if row["metric"] == metric and np.isfinite(row["p"]) and (test not in family or row["primary"]):
            family[test] = row
    others = max(sum(not row["primary"] for row in family.values()), 1)
    weights = [1.0 if row["primary"] else 1 / others for row in family.values()]
    adjusted = dict(zip(family, holm([row["p"] for row in family.values()], weights), strict=True))
    for row, test in zip(rows, tests, strict=True):
        if test in adjusted:
            row["p_holm"] = adjusted[test]
            row["direction"] = int(np.sign(row["mean"])) if adjusted[test] < error else 0


def ceiling_shares(
    measured: Measured, chosen: dict[str, dict[str, str]], spec: ComparisonSpec, settings: BootstrapSettings
) -> pl.DataFrame:
    """How much of the ceiling's gain in GAUC each source has, in their best forms, where that gain is above zero."""
    shares = []
    for (model, best), part in product(chosen.items(), SLICES):
        own = {source: measured.get(((source, form, model), part, "gauc")) for source, form in best.items()}
        ground, top = own.get(spec.baseline), own.get(spec.ceiling)
        if ground is None or top is None or not difference_interval(top, ground, settings).low > 0:
            continue
        for source, cells in own.items():
            if source not in (spec.baseline, spec.ceiling) and cells is not None:
                found = share_interval(cells, top, ground, settings)
                names = {"source": source, "model": model, "slice": part}
                shares.append(names | {"share": found.mean, "low": found.low, "high": found.high})
    return frame("ceiling_shares", shares)


def oracle_metrics(data: CTRData) -> pl.DataFrame:
    """Metrics of the true click probabilities on the test split; empty where the dataset does not know them."""
    impressions = data.dataset.impressions
    if "oracle" not in impressions.columns:
        return frame("oracle", [])
    oracle = impressions["oracle"].to_numpy()[data.rows["test"]]
    found = [{"slice": part, **_metrics(oracle, data, own)} for part, own in data.slices("test").items()]
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
    measured = _measured(grouped(rows), data, settings, progress)
    forms = [
        {"source": source, "form": form, "model": model}
        for model, best in chosen.items()
        for source, form in best.items()
    ]
    return Figures(
        cells=cells,
        differences=differences(measured, chosen, spec, settings),
        validation=validation(rows),
        chosen=frame("chosen", forms),
        ceiling_shares=ceiling_shares(measured, chosen, spec, settings),
        oracle=oracle,
        attainable=attainable(cells, oracle, spec.baseline),
        calibration=calibration_curves(rows, data, chosen),
        bootstrap=asdict(settings),
    )
