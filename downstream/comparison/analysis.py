"""From the rows of a comparison to its figures: metrics of every cell, differences with intervals, attainable lift."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from rich.progress import Progress

from downstream.comparison.cells import NO_FORM, Row
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
from downstream.statistics.metrics import all_metrics

# Each source in the form that was best for it on validation, where there are several forms.
BEST = "best"
Group = tuple[str, str, str]  # source, form, model
Draws = dict[tuple[Group, str, str], tuple[np.ndarray, np.ndarray]]  # by slice and metric: (S,) and (S, resamples)


@dataclass(frozen=True)
class Contestants:
    """Who is compared with whom.

    Attributes
    ----------
    baseline, main : every source is compared with the baseline, the main source with every other
    forms : of the embeddings, in the order of the comparison
    ceiling : the source that knows what can be known, whose gain the others' are shares of; None for none
    """

    baseline: str
    main: str
    forms: list[str]
    ceiling: str | None = None

    def headline(self) -> str:
        """The form in which the sources are judged."""
        return BEST if len(self.forms) > 1 else self.forms[0]


def grouped(rows: list[Row]) -> dict[Group, list[Row]]:
    """The rows of each (source, form, model), one a seed."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.source, row.cell.form, row.cell.model), []).append(row)
    return groups


def validation(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """model -> source -> form -> mean GAUC (AUC where it is undefined) on validation, by which forms are chosen."""
    worth: dict[str, dict[str, dict[str, float]]] = {}
    for (source, form, model), own in grouped(rows).items():
        valid = [row.record["metrics"]["valid"]["all"] for row in own]
        values = [metrics["auc"] if metrics["gauc"] is None else metrics["gauc"] for metrics in valid]
        worth.setdefault(model, {}).setdefault(source, {})[form] = float(np.mean(values))
    return worth


def choose_forms(rows: list[Row]) -> dict[str, dict[str, str]]:
    """model -> source -> the form that is best on validation."""
    worth = validation(rows)
    return {model: {source: max(own, key=own.get) for source, own in best.items()} for model, best in worth.items()}


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


def _pairs(who: Contestants, sources: list[str]) -> list[tuple[str, str]]:
    against_baseline = [(source, who.baseline) for source in sources if source != who.baseline]
    against_main = [(who.main, source) for source in sources if source not in (who.main, who.baseline)]
    return against_baseline + against_main


def _in_best_form(draws: Draws, chosen: dict[str, dict[str, str]]) -> Draws:
    """The draws, and again with each source's best form under the name "best"; what has no form stands under both."""
    best = {
        ((source, BEST, model), part, metric): own
        for ((source, form, model), part, metric), own in draws.items()
        if chosen[model][source] == form
    }
    return draws | best


def _differences(
    draws: Draws, chosen: dict[str, dict[str, str]], who: Contestants, settings: BootstrapSettings
) -> list[dict[str, Any]]:
    forms = [*who.forms, BEST] if len(who.forms) > 1 else who.forms
    sources = list(dict.fromkeys(source for (source, _, _), _, _ in draws))

    def find(source: str, form: str, model: str, part: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        own = draws.get(((source, form, model), part, metric))
        return draws.get(((source, NO_FORM, model), part, metric)) if own is None else own

    differences = []
    for model, form, (a, b), part, metric in product(chosen, forms, _pairs(who, sources), SLICES, METRICS):
        ours, theirs = find(a, form, model, part, metric), find(b, form, model, part, metric)
        if ours is None or theirs is None:
            continue
        interval = paired_interval(ours[0], theirs[0], ours[1], theirs[1], settings)
        names = {"a": a, "b": b, "form": form, "model": model, "slice": part, "metric": metric}
        differences.append(names | asdict(interval) | {"p": interval.p})
    _correct(differences, 1 - settings.level)
    return differences


def _shares_of_the_ceiling(
    draws: Draws, chosen: dict[str, dict[str, str]], who: Contestants, settings: BootstrapSettings
) -> list[dict[str, Any]]:
    """How much of the ceiling's gain in GAUC each source has, in their best forms, where that gain is above zero."""
    shares = []
    for (model, best), part in product(chosen.items(), SLICES):
        ground, top = (draws.get(((one, BEST, model), part, "gauc")) for one in (who.baseline, who.ceiling))
        if ground is None or top is None:
            continue
        if paired_interval(top[0], ground[0], top[1], ground[1], settings).low <= 0:
            continue
        for source in best:
            own = draws.get(((source, BEST, model), part, "gauc"))
            if source in (who.baseline, who.ceiling) or own is None:
                continue
            gains = [one[place] - ground[place] for place in (0, 1) for one in (own, top)]
            found = share_interval(*gains, settings)
            names = {"source": source, "model": model, "slice": part}
            shares.append(names | {"share": found.mean, "low": found.low, "high": found.high})
    return shares


def _correct(differences: list[dict[str, Any]], error: float) -> None:
    """Add Holm's p-values, and ``direction``: 1 or -1 for a difference that is there after Holm, 0 for none found.

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


def detectable_effects(
    differences: list[dict[str, Any]], who: Contestants, settings: BootstrapSettings
) -> dict[str, dict[str, dict[str, float]]]:
    """model -> slice -> metric -> the smallest true difference from the baseline that the test split would show.

    From the median spread of the differences, whatever they are themselves, at 80 % power and before Holm.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in differences:
        if row["b"] == who.baseline and row["form"] != BEST:
            own = found.setdefault(row["model"], {}).setdefault(row["slice"], {})
            own.setdefault(row["metric"], []).append(row["spread"])
    return {
        model: {
            part: {metric: detectable(float(np.median(all_)), settings.level) for metric, all_ in own.items()}
            for part, own in parts.items()
        }
        for model, parts in found.items()
    }


def oracle_metrics(data: CTRData) -> dict[str, dict[str, float | None]] | None:
    """slice -> metric of the true click probabilities on the test split; None where the dataset does not know them."""
    impressions = data.dataset.impressions
    if "oracle" not in impressions.columns:
        return None
    rows = data.rows["test"]
    oracle, click, user = impressions["oracle"].to_numpy()[rows], data.click[rows], data.user[rows]
    return {part: all_metrics(click[own], oracle[own], user[own]) for part, own in data.slices("test").items()}


def _attainable(cells: list[dict], oracle: dict, baseline: str) -> list[dict[str, Any]]:
    """Share of the lift that the oracle leaves to be had, (AUC - AUC_baseline) / (AUC_oracle - AUC_baseline)."""
    shares = []
    keys = list(dict.fromkeys((cell["source"], cell["form"], cell["model"], cell["slice"]) for cell in cells))
    for metric in ("auc", "gauc"):
        means = {}
        for key in keys:
            own = [c[metric] for c in cells if (c["source"], c["form"], c["model"], c["slice"]) == key]
            means[key] = None if None in own else float(np.mean(own))
        for source, form, model, part in keys:
            value, top = means[source, form, model, part], oracle[part][metric]
            ground = next(means[key] for key in keys if (key[0], *key[2:]) == (baseline, model, part))
            if source != baseline and None not in (value, top, ground) and top > ground:
                names = {"source": source, "form": form, "model": model, "slice": part, "metric": metric}
                shares.append(names | {"share": (value - ground) / (top - ground)})
    return shares


def analyse(
    rows: list[Row], data: CTRData, who: Contestants, settings: BootstrapSettings, progress: Progress
) -> dict[str, Any]:
    """The figures of a comparison.

    Returns
    -------
    dict with
        cells : source, form, model, seed, slice, auc, gauc, log_loss (of the test split; None where undefined)
        differences : a, b, form, model, slice, metric, mean, low, high, spread, p, p_holm, direction; the mean is a - b
        detectable : model -> slice -> metric -> minimum detectable effect
        validation : model -> source -> form -> mean GAUC on validation
        chosen : model -> source -> its best form on validation
        of_the_ceiling : source, model, slice, share, low, high: shares of the ceiling's gain in GAUC, best forms
        oracle : slice -> metrics, or None
        attainable : source, form, model, slice, metric, share; empty without an oracle
    """
    cells = [
        {**row.cell.names(), "slice": part, **row.record["metrics"]["test"][part]} for row in rows for part in SLICES
    ]
    oracle, chosen = oracle_metrics(data), choose_forms(rows)
    draws = _in_best_form(_draws(grouped(rows), data, settings, progress), chosen)
    differences = _differences(draws, chosen, who, settings)
    return {
        "cells": cells,
        "differences": differences,
        "detectable": detectable_effects(differences, who, settings),
        "validation": validation(rows),
        "chosen": chosen,
        "of_the_ceiling": _shares_of_the_ceiling(draws, chosen, who, settings),
        "oracle": oracle,
        "attainable": _attainable(cells, oracle, who.baseline) if oracle else [],
    }
