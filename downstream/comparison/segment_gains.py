"""Where an embedding helps: its gain by item age, popularity, history length and category."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import polars as pl
from rich.progress import Progress

from downstream.comparison.analysis import choose_forms, grouped, measure
from downstream.comparison.cells import Row
from downstream.comparison.figures import frame
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import CTRData
from downstream.data.segments import Slices, slices
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.statistics.intervals import difference_interval

# The intervals of a part are read by eye, not tested: fewer draws do.
MOST_RESAMPLES = 200


def _users(data: CTRData) -> Slices:
    """Test impressions of users with and without an impression in training; nothing where all are alike."""
    known = np.isin(data.user[data.rows["test"]], data.user[data.rows["train"]])
    return {} if known.all() or not known.any() else {"user": {"in training": known, "new": ~known}}


def gains_by_segment(
    rows: list[Row], data: CTRData, spec: ComparisonSpec, settings: BootstrapSettings, progress: Progress
) -> pl.DataFrame:
    """GAUC differences of the main source, in its best form, from the baseline in parts of the test split.

    Parts without GAUC are left out.
    """
    settings = replace(settings, resamples=min(settings.resamples, MOST_RESAMPLES))
    groups, chosen = grouped(rows), choose_forms(rows)
    work = [
        (model, of, part, mask)
        for model in chosen
        for of, own in (slices(data, "test") | _users(data)).items()
        for part, mask in own.items()
    ]
    found = []
    for model, dimension, part, mask in progress.track(work, description="segments"):
        sides = [
            measure(groups[source, chosen[model][source], model], data, mask, settings, ("gauc",)).get("gauc")
            for source in (spec.main, spec.baseline)
        ]
        if None not in sides:
            names = {"model": model, "dimension": dimension, "part": part, "impressions": int(mask.sum())}
            found.append(names | asdict(difference_interval(*sides, settings)))
    return frame("segments", found)
