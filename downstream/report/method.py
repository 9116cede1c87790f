"""How a comparison was measured, and what it cannot say: the small print of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from data_tools.dataset.near_duplicates import like_any
from data_tools.dataset.schema import SPLITS
from downstream.comparison.cells import Row
from downstream.comparison.figures import Figures
from downstream.comparison.looks import covered
from downstream.comparison.spec import BEST, NO_FORM, ComparisonSpec
from downstream.data.ctr_data import CTRData
from downstream.report.words import METRIC_NAMES, Names

GLOSSARY = {
    "AUC": "chance that a random click is scored above a random impression without a click",
    "GAUC": "AUC within each user, averaged over users by their impressions: how well each user's own list is ranked",
    "NDCG@10": "quality of the first ten places of each page view; 1 if all clicks come first",
    "log loss": "mean negative log-likelihood of the clicks; lower is better",
    "ECE": "expected calibration error: mean gap between predicted and observed click rate; lower is better",
    "page AUC of SimScore": "AUC within each page view of the cosine between an item and the user's last clicks",
    "recall@50": "share of clicks whose item is among the 50 nearest to the user's last clicks, by vectors alone",
    "RankMe": "number of dimensions that an embedding effectively uses",
    "warm, cold": "items with and without an impression in the training split",
    "form": "how vectors enter the CTR model: as they are (Vector), as cosines with the user's clicks (SimScore), as a "
    "histogram of these (SimTier)",
    "interval": "range that holds the true difference in 95 of 100 such comparisons, at a level of 95%",
    "Holm's correction": "stricter p-values, which make a false star unlikely among all the differences compared",
}


def compared(figures: Figures, rows: list[Row], data: CTRData, spec: ComparisonSpec, names: Names) -> str:
    """What was compared, in a sentence or two."""
    test = data.rows["test"]
    forms = f" as {', '.join(names(form) for form in spec.forms)}" if spec.forms else ""
    return (
        f"{', '.join(names(source) for source in figures.sources)}{forms}, in {', '.join(map(names, figures.models))}; "
        f"{len(rows)} CTR trainings, scored on {len(test):,} test impressions of {len(np.unique(data.user[test])):,} "
        "users."
    )


def _forms(figures: Figures, row: dict[str, Any]) -> list[str]:
    """The forms that a difference compares."""
    chosen = [figures.chosen_form(row["model"], row[side]) for side in "ab"]
    return [best if best == NO_FORM or row["form"] == BEST else row["form"] for best in chosen]


def sure(figures: Figures, data: CTRData) -> str:
    """How sure the verdict is, and how often this test split was looked at."""
    tested = {
        (row["a"], row["b"], *_forms(figures, row), row["model"], row["slice"])
        for row in figures.differences.iter_rows(named=True)
        if row["p_holm"] is not None
    }
    declared = f"{'one' if figures.differences['primary'].any() else 'none'} declared before the run"
    looks, level = figures.looks, f"{figures.bootstrap['level']:.0%}"
    before = "No other comparison has scored these test rows"
    if len(looks):
        others = f"{len(looks)} other comparison{'s' * (len(looks) > 1)} with {looks['contrasts'].sum():,} differences"
        before = (
            f"{others} scored the same test rows; confirm a headline on fresh ones (--test_days; the test split covers "
            f"{covered(data)})"
        )
    metric = METRIC_NAMES[figures.tested]
    return f"{level} intervals; {len(tested)} {metric} differences tested together, {declared}. {before}."


def splits(data: CTRData) -> list[list[str]]:
    """Of each split: name, impressions, share of clicks, users, items, share of impressions of cold items."""
    lines = []
    for split in SPLITS:
        rows = data.rows[split]
        users, items = (len(np.unique(column[rows])) for column in (data.user, data.item))
        cold = data.slices(split)["cold"].mean()
        counts = [f"{len(rows):,}", f"{data.click[rows].mean():.1%}", f"{users:,}", f"{items:,}", f"{cold:.1%}"]
        lines.append([split, *counts])
    return lines


def _settings(training: dict[str, Any]) -> str:
    """The settings of the CTR trainings in one line, but for those that each cell sets itself."""
    return ", ".join(
        f"{name} {value}" for name, value in _flat(training).items() if name not in ("model.name", "image.form")
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _cells(rows: list[Row], names: Names) -> str:
    """Which cells were run: the CTR seeds of each encoder of each source, alike sources together."""
    designs: dict[str, list[str]] = {}
    for source in dict.fromkeys(row.cell.source for row in rows):
        own = [row.cell for row in rows if row.cell.source == source]
        pairs = sorted({(cell.encoder, cell.seed) for cell in own})
        encoders = {encoder: ", ".join(str(seed) for e, seed in pairs if e == encoder) for encoder, _ in pairs}
        if own[0].table is None:
            design = f"CTR seeds {encoders[pairs[0][0]]}"
        else:
            design = "; ".join(f"encoder {encoder} with CTR seeds {seeds}" for encoder, seeds in encoders.items())
        designs.setdefault(design, []).append(names(source))
    return ". ".join(f"{', '.join(sources)}: {design}" for design, sources in designs.items())


def measured(
    figures: Figures, rows: list[Row], data: CTRData, training: dict[str, Any], names: Names
) -> list[tuple[str, str]]:
    """(what, how) lines: data, settings, seeds, intervals, command, commit, versions, machine."""
    made, info, bootstrap = figures.made_by, data.dataset.info, figures.bootstrap
    lacking = {row.cell.source: row.record["items_without_image"] for row in rows if row.cell.table}
    machine = {**made["machine"], "cores": f"{made['machine']['cores']} cores"}
    seconds = sum(row.record["seconds"] for row in rows)
    return [
        ("Dataset", f"{info.get('source', 'unnamed')}; fingerprint {info['fingerprint']}"),
        ("Splits", "by time; epoch and form are chosen on valid, all figures are of test"),
        ("Settings", _settings(training)),
        ("Cells", f"{_cells(rows, names)}; ± is the sample standard deviation over them"),
        (
            "Intervals",
            f"{bootstrap['level']:.0%}, for new users, new CTR trainings and, where a source has several encoders, new "
            f"pre-training seeds: bootstrap over users ({bootstrap['resamples']} draws, seed {bootstrap['seed']}) and "
            "analysis of variance between encoders and between trainings, each counted once; GAUC is weighted by "
            "impressions",
        ),
        (
            "Items without a vector",
            ", ".join(f"{names(source)} {count:,}" for source, count in lacking.items()) or "no tables",
        ),
        ("Time", f"{len(rows)} cells, {seconds:.0f} s of CTR training and scoring"),
        ("Command", made["command"]),
        ("Commit", made["commit"]),
        ("Versions", ", ".join(f"{name} {number}" for name, number in made["versions"].items())),
        ("Machine", ", ".join(str(value) for value in machine.values() if value)),
    ]


def drawn_labels(info: dict[str, Any]) -> list[str]:
    """What to say of a dataset (its ``info``) whose unclicked impressions were drawn; nothing of others."""
    drawn = info.get("labels", {}).get("unclicked_drawn")
    if not drawn:
        return []
    source = {
        "uniform": "from all items clicked so far, with equal probability",
        "popularity": "from all items, in proportion to their clicks so far",
        "category": "from the clicked item's category, with equal probability",
        "category_popularity": "from the clicked item's category, in proportion to clicks so far",
    }[drawn["from"]]
    unlike = f", leaving out items that share their {drawn['unlike']}" if drawn.get("unlike") else ""
    return [
        f"Unclicked items were drawn, not observed: the log has clicks alone, and for each click {drawn['per_click']} "
        f"items were drawn as of its time, {source}{unlike}, never one that the user clicked by then or clicks later "
        f"in the same split (seed {drawn['seed']}). AUC and GAUC say how well clicks are separated from such draws, "
        "which differs from real page views."
    ]


def cold_near_duplicates(data: CTRData) -> str:
    """How many of the test split's cold items have nearly the picture of a warm one, where that is known."""
    if (first := data.dataset.first_alike) is None:
        return ""
    cold = np.unique(data.item[data.rows["test"]][data.slices("test")["cold"]])
    alike = int(like_any(first, data.warm)[cold].sum())
    return (
        f" {alike:,} of them have nearly the same picture as an item that was: for an image encoder they are not new."
    )


def limitations(figures: Figures, data: CTRData, names: Names) -> list[str]:
    """What the figures cannot say."""
    tested = figures.differences.filter(pl.col("p_holm").is_not_null())
    distinct = figures.differences.filter(pl.col("form") != BEST)
    cold = data.slices("test")["cold"]
    items = len(np.unique(data.item[data.rows["test"]][cold]))
    said = drawn_labels(data.dataset.info)
    said += [
        "Offline, on one log that was shaped by what ranked it then; a live test may say otherwise.",
        "Intervals cover users and seeds in this test period, not other periods, other items or other settings.",
        f"The report has {len(distinct)} intervals, each with {figures.bootstrap['level']:.0%} coverage. "
        f"Stars and verdict follow Holm's correction over all {METRIC_NAMES[figures.tested]} differences of the "
        "report, which limits the chance of any false star to "
        f"{1 - figures.bootstrap['level']:.0%}; differences in other metrics are not tested.",
        f"The items never shown in training are {items:,}, with {cold.sum():,} test impressions."
        f"{cold_near_duplicates(data)}",
        "All models are trained from scratch on this log; on a longer one IDs know more and embeddings add less "
        "(a caution of COURIER's authors).",
    ]
    silent = figures.tables.filter(pl.col("saw_until").is_null())["source"].unique(maintain_order=True).to_list()
    if silent:
        said.append(
            f"{', '.join(names(source) for source in silent)}: table.json does not record how far the training data "
            "reach (saw_until): only the vectors themselves were tested for knowledge of test labels."
        )
    fewest = tested.select(pl.col("encoders").filter(pl.col("encoders") > 1).min()).item()
    if fewest and fewest < 4:
        said.append(
            f"With {fewest} encoders, the spread between pre-training seeds is estimated from {fewest - 1} degree"
            f"{'s' * (fewest > 2)} of freedom: intervals are wide, and after Holm's correction even a difference of "
            "many standard errors may have no star. More encoders help most; five are enough for most "
            "comparisons. A difference declared before the run is corrected less."
        )
    return said
