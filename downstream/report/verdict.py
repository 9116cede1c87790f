"""What a comparison says, in at most three sentences; that no difference was found is one of the things it may say."""

from __future__ import annotations

from downstream.comparison.figures import Figures, record, records
from downstream.comparison.spec import ComparisonSpec
from downstream.report.words import PLACES, Names, signed

NOTABLE = 0.005  # share of test impressions without a vector that the verdict mentions


def _against_baseline(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    ground, level = names(spec.baseline), f"{figures.bootstrap['level']:.0%}"
    wanted = {"a": spec.main, "b": spec.baseline, "form": spec.headline, "model": model, "metric": "gauc"}
    clauses, last = [], None
    for part in ("all", "cold"):
        if not (found := record(figures.differences, **wanted, slice=part)):
            continue
        amount = f"{abs(found['mean']):.4f}" if found["direction"] else signed(found["mean"])
        change = f"{amount} ({level} interval {signed(found['low'])} to {signed(found['high'])})"
        verb = {
            1: f"raises the GAUC of {names(model)} over {ground} by ",
            -1: f"lowers the GAUC of {names(model)} below {ground} by ",
            0: f"shows no significant difference from {ground} in the GAUC of {names(model)}: ",
        }[found["direction"]]
        clauses.append(f"{'' if found['direction'] == last else verb}{change} {PLACES[part]}")
        last = found["direction"]
    if not clauses:
        return None
    form = names(figures.chosen_form(model, spec.main)) if len(spec.forms) > 1 else names(spec.forms[0])
    how = f"{form}, the form chosen on validation" if len(spec.forms) > 1 else form
    return f"{names(spec.main)} ({how}) {' and '.join(clauses)}."


def _against_others(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for row in records(figures.differences, a=spec.main, form=spec.headline, model=model, slice="all", metric="gauc"):
        if row["b"] != spec.baseline:
            groups[row["direction"]].append(f"{names(row['b'])} ({signed(row['mean'])})")
    words = {1: "better than", -1: "worse than", 0: "no significant difference from"}
    said = [f"{words[key]} {', '.join(others)}" for key, others in groups.items() if others]
    return f"Against the other embeddings, {PLACES['all']}: {'; '.join(said)}." if said else None


def _of_the_attainable(figures: Figures, spec: ComparisonSpec, model: str, names: Names) -> str | None:
    form, said = figures.chosen_form(model, spec.main), []
    if found := record(figures.ceiling_shares, source=spec.main, model=model, slice="all"):
        level = f"{figures.bootstrap['level']:.0%} interval {found['low']:.0%} to {found['high']:.0%}"
        said.append(f"{found['share']:.0%} ({level}) of the GAUC gain of {names(spec.ceiling)}")
    if found := record(figures.attainable, source=spec.main, form=form, model=model, slice="all", metric="gauc"):
        said.append(f"{found['share']:.0%} of the GAUC gain that knowing the true click probabilities would bring")
    return f"It reaches {', and '.join(said)}." if said else None


def _without_vectors(figures: Figures, names: Names) -> str | None:
    """Which sources lack vectors for a notable share of the test impressions."""
    worst: dict[str, float] = {}
    for one in figures.tables.iter_rows(named=True):
        worst[one["source"]] = max(worst.get(one["source"], 0.0), one["impressions_without_vector"] or 0.0)
    said = [f"{share:.0%} ({names(source)})" for source, share in worst.items() if share >= NOTABLE]
    return f"Share of test impressions whose item has no vector: {', '.join(said)}." if said else None


def verdict(figures: Figures, spec: ComparisonSpec) -> list[str]:
    """A few sentences on the main source in its form chosen on validation, for the first model compared.

    Flagged tables come before them, and of a flagged main source nothing else is said.
    """
    model, names = figures.models[0], Names(spec.names)
    warnings = [f"{names(source)} appears to know test labels: {reason}." for source, reason in figures.flagged.items()]
    if spec.main in figures.flagged:
        return warnings
    parts = (_against_baseline, _against_others, _of_the_attainable)
    said = [sentence for part in parts if (sentence := part(figures, spec, model, names))]
    lacking = _without_vectors(figures, names)
    return warnings + (said or ["The test split is too small for any comparison."]) + ([lacking] if lacking else [])
