"""What a comparison says, in a few sentences; "no significant difference" is one of the things it may say."""

from __future__ import annotations

from typing import Any

import polars as pl

from downstream.comparison.figures import Figures, record, records
from downstream.comparison.spec import ComparisonSpec
from downstream.report.words import METRIC_NAMES, PLACES, Names, share, signed

# What is said of other sources, by star and by the side of zero of an interval without one.
OTHERS = {
    (1, 0): "better than",
    (-1, 0): "worse than",
    (0, 1): "ahead, without surviving Holm's correction, of",
    (0, -1): "behind, without surviving Holm's correction,",
    (0, 0): "no significant difference from",
}
NOTABLE = 0.005  # share of test impressions without a vector that the verdict mentions


def _apart(row: dict[str, Any]) -> int:
    """On which side of zero the interval of a difference without a star lies, 0 if it holds zero."""
    if row["low"] is None or row["direction"]:
        return 0
    return (row["low"] > 0) - (row["high"] < 0)


def _change(row: dict[str, Any], level: str) -> str:
    amount = f"{abs(row['mean']):.4f}" if row["direction"] else signed(row["mean"])
    if row["low"] is None:
        return f"{amount} without an interval, since fewer than two test users carry it,"
    return f"{amount} ({level} interval {signed(row['low'])} to {signed(row['high'])})"


def _against(figures: Figures, spec: ComparisonSpec, names: Names, rows: list[dict[str, Any]], other: str) -> str:
    """The main source against another, slice by slice."""
    level = f"{figures.bootstrap['level']:.0%}"
    what = f"the {METRIC_NAMES[figures.tested]} of {names(rows[0]['model'])}"
    clauses, last = [], None
    for row in rows:
        verb = {
            1: f"raises {what} over {names(other)} by ",
            -1: f"lowers {what} below {names(other)} by ",
            0: f"shows no significant difference from {names(other)} in {what}: ",
            None: f"cannot be compared with {names(other)} in {what}: ",
        }[None if row["low"] is None else row["direction"]]
        if side := _apart(row):
            where = "above" if side > 0 else "below"
            verb = f"is {where} {names(other)} in {what}, without surviving Holm's correction, by "
        clauses.append(f"{'' if verb == last else verb}{_change(row, level)} {PLACES[row['slice']]}")
        last = verb
    form = names(figures.chosen_form(rows[0]["model"], spec.main))
    how = f"{form}, the form chosen on validation" if len(spec.forms) > 1 else names(spec.forms[0])
    return f"{names(spec.main)} ({how}) {' and '.join(clauses)}."


def _primary(figures: Figures, spec: ComparisonSpec, names: Names) -> str | None:
    """The difference that was declared before the run."""
    if not (row := record(figures.differences, primary=True)):
        return None
    said = _against(figures, spec, names, [row], row["b"])
    return f"Declared before the run: {said[:-1]}, p = {row['p_holm']:.2g}." if row["p_holm"] is not None else said


def _against_baseline(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    wanted = {"a": spec.main, "b": spec.baseline, "form": spec.headline, "model": model, "metric": figures.tested}
    found = [record(figures.differences, **wanted, slice=part) for part in ("all", "cold")]
    rows = [row for row in found if row and not row["primary"]]
    return _against(figures, spec, names, rows, spec.baseline) if rows else None


def _against_others(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    groups: dict[tuple[int, int], list[str]] = {key: [] for key in OTHERS}
    wanted = {"form": spec.headline, "model": model, "slice": "all", "metric": figures.tested}
    for row in records(figures.differences, a=spec.main, **wanted):
        if row["b"] != spec.baseline and not row["primary"]:
            groups[row["direction"], _apart(row)].append(f"{names(row['b'])} ({signed(row['mean'])})")
    said = [f"{OTHERS[key]} {', '.join(others)}" for key, others in groups.items() if others]
    return f"Against the other embeddings, {PLACES['all']}: {'; '.join(said)}." if said else None


def _of_the_attainable(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    form, said = figures.chosen_form(model, spec.main), []
    if found := record(figures.ceiling_shares, source=spec.main, model=model, slice="all"):
        level = f"{figures.bootstrap['level']:.0%} interval"
        said.append(f"{share(found).replace('(', f'({level} ')} of the GAUC gain of {names(spec.ceiling)}")
    if found := record(figures.attainable, source=spec.main, form=form, model=model, slice="all", metric="gauc"):
        said.append(f"{found['share']:.0%} of the GAUC gain that knowing the true click probabilities would bring")
    return f"It reaches {', and '.join(said)}." if said else None


def _undefined(figures: Figures) -> str | None:
    """Why there is no GAUC."""
    if figures.tested == "gauc" or figures.differences.is_empty():
        return None
    return "GAUC is undefined: no test user has both a click and an impression without one; AUC is compared instead."


def _without_vectors(figures: Figures, names: Names) -> str | None:
    """Which sources lack vectors for a notable share of the test impressions."""
    worst: dict[str, float] = {}
    for one in figures.tables.iter_rows(named=True):
        worst[one["source"]] = max(worst.get(one["source"], 0.0), one["impressions_without_vector"] or 0.0)
    said = [f"{own:.0%} ({names(source)})" for source, own in worst.items() if own >= NOTABLE]
    return f"Share of test impressions whose item has no vector: {', '.join(said)}." if said else None


def _conditional(figures: Figures, spec: ComparisonSpec, names: Names) -> str | None:
    """What the intervals do not cover, where there is one encoder or one training."""
    own = figures.cells.filter(pl.col("source") == spec.main)
    if figures.differences["low"].is_null().all():
        return None
    if figures.cells.group_by("source", "form", "model").len()["len"].max() == 1:
        return "Intervals cover users only: there is one CTR training each."
    if own["encoder"].n_unique() == 1 and not figures.differences.is_empty():
        return (
            f"Intervals are conditional on the one encoder of {names(spec.main)}: another pre-training seed may give "
            "more or less."
        )
    return None


def verdict(figures: Figures, spec: ComparisonSpec) -> list[str]:
    """A few sentences on the main source in its form chosen on validation, for the first model compared.

    Flagged tables come before them, and nothing else is reported about a flagged main source.
    """
    model, names = figures.models[0], Names(spec.names)
    warnings = [f"{names(source)} appears to know test labels: {reason}." for source, reason in figures.flagged.items()]
    if spec.main in figures.flagged:
        return warnings
    parts = (_against_baseline, _against_others, _of_the_attainable)
    said = [_primary(figures, spec, names), *(part(figures, spec, model, names) for part in parts)]
    if not any(said):
        said = ["The test split is too small for any comparison."]
    last = _undefined(figures), _conditional(figures, spec, names), _without_vectors(figures, names)
    return warnings + [sentence for sentence in (*said, *last) if sentence]
