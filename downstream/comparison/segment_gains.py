"""Where an embedding helps: its gain by item age, popularity, history length and category."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import polars as pl
from rich.progress import Progress

from data_tools.measures.group_auc import group_auc
from downstream.comparison.analysis import choose_forms, grouped
from downstream.comparison.cells import Row
from downstream.comparison.figures import frame
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import CTRData
from downstream.data.segments import slices
from downstream.statistics.intervals import BootstrapSettings, bootstrap_metrics, paired_interval
from downstream.statistics.metrics import gauc

# The intervals of a part are read by eye, not tested: fewer draws do.
MOST_RESAMPLES = 200


def gains_by_segment(
    rows: list[Row], data: CTRData, spec: ComparisonSpec, settings: BootstrapSettings, progress: Progress
) -> pl.DataFrame:
    """GAUC differences of the main source, in its best form, from the baseline in parts of the test split.

    Parts without GAUC are left out.
    """
    settings = replace(settings, resamples=min(settings.resamples, MOST_RESAMPLES))
    groups, chosen, test = grouped(rows), choose_forms(rows), data.rows["test"]
    people, user = np.unique(data.user[test], return_inverse=True)
    work = [
        (model, of, part, mask)
        for model in chosen
        for of, own in slices(data, "test").items()
        for part, mask in own.items()
    ]
    found = []
    for model, dimension, part, mask in progress.track(work, description="segments"):
        click, own_user = data.click[test][mask], user[mask]
        sides = []
        for source in (spec.main, spec.baseline):
            scores = [row.test_scores[mask] for row in groups[source, chosen[model][source], model]]
            if not group_auc(click, scores[0], own_user).defined.any():
                break
            values = np.array([gauc(click, score, own_user) for score in scores])
            draws = [bootstrap_metrics(click, score, own_user, len(people), settings)["gauc"] for score in scores]
            sides.append((values, np.stack(draws)))
        if len(sides) == 2:
            (ours, our_draws), (theirs, their_draws) = sides
            interval = paired_interval(ours, theirs, our_draws, their_draws, settings)
            names = {"model": model, "dimension": dimension, "part": part, "impressions": int(mask.sum())}
            found.append(names | asdict(interval))
    return frame("segments", found)
