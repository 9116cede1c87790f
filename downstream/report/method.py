"""How a comparison was measured, and what it cannot say: the small print of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_tools.dataset.schema import SPLITS
from downstream.comparison.analysis import BEST
from downstream.comparison.cells import Row
from downstream.data.ctr_data import CTRData


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
    of_the_cell = {("model", "name"), ("image", "form")}
    pairs = [(section, key, value) for section, own in training.items() for key, value in own.items()]
    return ", ".join(f"{section}.{key} {value}" for section, key, value in pairs if (section, key) not in of_the_cell)


def measured(
    figures: dict[str, Any], rows: list[Row], data: CTRData, training: dict[str, Any]
) -> list[tuple[str, str]]:
    """(what, how) lines: data, settings, seeds, intervals, command, commit, versions, machine."""
    made, info, bootstrap = figures["made_by"], data.dataset.info, figures["bootstrap"]
    seeds = dict.fromkeys(str(row.cell.seed) for row in rows)
    lacking = {row.cell.source: row.record["items_without_image"] for row in rows if row.cell.table}
    machine = {**made["machine"], "cores": f"{made['machine']['cores']} cores"}
    seconds = sum(row.record["seconds"] for row in rows)
    return [
        ("Dataset", f"{info.get('source', 'unnamed')}; fingerprint {info['fingerprint']}"),
        ("Splits", "by time; epoch and form are chosen on valid, all figures are of test"),
        ("Settings", _settings(training)),
        ("Seeds", f"{', '.join(seeds)}; ± is the sample standard deviation over them"),
        (
            "Intervals",
            f"paired bootstrap over users and seeds, {bootstrap['resamples']} draws, {bootstrap['level']:.0%} "
            f"percentiles, seed {bootstrap['seed']}; GAUC is weighted by impressions",
        ),
        (
            "Items without a vector",
            ", ".join(f"{source} {count:,}" for source, count in lacking.items()) or "no tables",
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


def limitations(figures: dict[str, Any], rows: list[Row], data: CTRData) -> list[str]:
    """What the figures cannot say."""
    seeds = len({row.cell.seed for row in rows})
    level, count = figures["bootstrap"]["level"], sum(row["form"] != BEST for row in figures["differences"])
    cold = data.slices("test")["cold"]
    items = len(np.unique(data.item[data.rows["test"]][cold]))
    said = drawn_labels(data.dataset.info)
    said += [
        "Offline, on one log that was shaped by whatever ranked it then; a live test may say otherwise.",
        "Intervals cover users and seeds of this test period, not other periods, other items or other settings.",
        f"{count} intervals stand here, each with {level:.0%} coverage of its own. Stars and verdict follow Holm's "
        "correction over all differences of one metric on one slice.",
        f"The items never shown in training are {items:,}, with {cold.sum():,} test impressions.",
        "All models start from nothing on this log; on a long one the IDs know more and embeddings add less "
        "(a caution of COURIER's authors).",
    ]
    if seeds < 5:
        said.append(f"The spread over {seeds} seed{'s' * (seeds > 1)} is itself poorly known.")
    return said
