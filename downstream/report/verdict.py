"""What a comparison says, in at most three sentences; that no difference was found is one of the things it may say."""

from __future__ import annotations

from typing import Any

from downstream.comparison.analysis import Contestants

PLACES = {"all": "on all test impressions", "cold": "on items never shown in training"}


def signed(value: float) -> str:
    """A difference with its sign and four decimals."""
    return f"{value:+.4f}".replace("-", "\u2212")


def _find(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any] | None:
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def _against_baseline(figures: dict[str, Any], who: Contestants, model: str) -> str | None:
    verbs = {
        1: f"raises the GAUC of {model} over {who.baseline} by",
        -1: f"changes the GAUC of {model} against {who.baseline} for the worse by",
        0: f"shows no difference from {who.baseline} in the GAUC of {model}:",
    }
    clauses, last = [], None
    for part, place in PLACES.items():
        wanted = {"a": who.main, "b": who.baseline, "form": who.headline(), "model": model, "metric": "gauc"}
        if found := _find(figures["differences"], **wanted, slice=part):
            level = f"{figures['bootstrap']['level']:.0%} interval {signed(found['low'])} to {signed(found['high'])}"
            verb = "" if found["direction"] == last else verbs[found["direction"]] + " "
            clauses.append(f"{verb}{signed(found['mean'])} ({level}) {place}")
            last = found["direction"]
    if not clauses:
        return None
    how = f"{figures['chosen'][model][who.main]}, the form chosen on validation" if len(who.forms) > 1 else who.forms[0]
    return f"{who.main} ({how}) {' and '.join(clauses)}."


def _against_others(figures: dict[str, Any], who: Contestants, model: str) -> str | None:
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for row in figures["differences"]:
        key = (row["a"], row["form"], row["model"], row["slice"], row["metric"])
        if key == (who.main, who.headline(), model, "all", "gauc") and row["b"] != who.baseline:
            groups[row["direction"]].append(f"{row['b']} ({signed(row['mean'])})")
    words = {1: "better than", -1: "worse than", 0: "no difference found from"}
    said = [f"{words[key]} {', '.join(others)}" for key, others in groups.items() if others]
    return f"Against the other embeddings, {PLACES['all']}: {'; '.join(said)}." if said else None


def _of_the_attainable(figures: dict[str, Any], who: Contestants, model: str) -> str | None:
    form = figures["chosen"][model][who.main]
    said = []
    if found := _find(figures["of_the_ceiling"], source=who.main, model=model, slice="all"):
        level = f"{figures['bootstrap']['level']:.0%} interval {found['low']:.0%} to {found['high']:.0%}"
        said.append(f"{found['share']:.0%} ({level}) of the GAUC gain that {who.ceiling} brings")
    if found := _find(figures["attainable"], source=who.main, form=form, model=model, slice="all", metric="gauc"):
        said.append(f"{found['share']:.0%} of the GAUC gain that knowing the true click probabilities would bring")
    return f"It brings {', and '.join(said)}." if said else None


def verdict(figures: dict[str, Any], who: Contestants) -> list[str]:
    """At most three sentences on the main source in its form chosen on validation, for the first model compared.

    Flagged tables come before them, and of a flagged main source nothing else is said.
    """
    model = next(iter(figures["chosen"]))
    warnings = [f"Do not believe {source}: {reason}." for source, reason in figures["flagged"].items()]
    if who.main in figures["flagged"]:
        return warnings
    said = [write(figures, who, model) for write in (_against_baseline, _against_others, _of_the_attainable)]
    found = [sentence for sentence in said if sentence] or ["The test split is too small for any comparison."]
    return warnings + found
