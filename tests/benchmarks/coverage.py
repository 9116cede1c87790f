"""How often the intervals of a comparison hold the truth, and how often a report under the null shows a star.

    python -m tests.benchmarks.coverage > results/benchmarks/coverage.md

Worlds are drawn with known noise of users (common to the cells, and of each cell), encoders and CTR trainings; each
goes through the project's own functions: a bootstrap over users, :func:`difference_interval`, and for whole reports
:func:`downstream.comparison.analysis.differences` with Holm's correction. Numbers are standard deviations in units of
one: of the mean over all users for users, of one encoder or training for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from downstream.comparison.analysis import Measured, differences
from downstream.comparison.spec import NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES
from downstream.statistics.intervals import BootstrapSettings, Cells, difference_interval, user_counts


@dataclass(frozen=True)
class Design:
    """A source with encoders against one without, at the same CTR seeds.

    Attributes
    ----------
    encoders, seeds : int
        How many; the k-th CTR seed is run on the k-th encoder, from the first again, unless ``crossed``.
    of_encoders, of_trainings, of_seeds : float
        Standard deviations between encoders, between trainings, and between CTR seeds that all encoders share.
    of_users, of_users_and_cells : float
        Standard deviations of the mean over users: the same in every cell, and of each cell by itself.
    crossed : bool
        Whether every encoder is run with every CTR seed.
    """

    encoders: int
    seeds: int
    of_encoders: float = 0.0
    of_trainings: float = 0.0
    of_seeds: float = 0.0
    of_users: float = 1.0
    of_users_and_cells: float = 0.3
    crossed: bool = False


NOISES = (
    {},  # users only
    {"of_users_and_cells": 1.0},
    {"of_trainings": 1.0, "of_users": 0.05, "of_users_and_cells": 0.02},  # trainings only
    {"of_trainings": 1.0},
    {"of_encoders": 1.0},
    {"of_encoders": 1.0, "of_trainings": 0.5, "of_users": 0.3},
    {"of_encoders": 2.0, "of_trainings": 0.5},
    {"of_encoders": 0.5, "of_trainings": 0.5, "of_users_and_cells": 0.6},
)
TWO_ENCODERS = (
    "With two encoders, paired or crossed, intervals tend to be wider than they need be: from one degree of freedom, "
    "the spread between encoders is hardly known, and where it is small beside that of users no quantile suits every "
    "ratio of the two. They are conservative, not wrong; a third encoder mends most of it."
)
NESTED = ((2, 2), (2, 4), (3, 3), (3, 5), (5, 5))
CROSSED = ((2, 2), (2, 3), (3, 3), (3, 5))
DESIGNS = (
    [Design(1, 3, **noise) for noise in NOISES if "of_encoders" not in noise]
    + [Design(e, s, **noise) for (e, s), noise in product(NESTED, NOISES)]
    + [Design(e, s, **noise, of_seeds=0.3, crossed=True) for (e, s), noise in product(CROSSED, NOISES)]
)


def _counts(users: int, resamples: int) -> np.ndarray:
    """Share of each user in each bootstrap draw: float64 (users, resamples)."""
    return np.stack([user_counts(users, draw, 0) for draw in range(resamples)]).T / users


def _keys(design: Design) -> tuple[np.ndarray, np.ndarray]:
    if design.crossed:
        encoder, seed = np.indices((design.encoders, design.seeds)).reshape(2, -1)
        return encoder, seed
    seed = np.arange(design.seeds)
    return seed % design.encoders, seed


def _cells(mean: np.ndarray, common: np.ndarray, own: float, keys: tuple, counts: np.ndarray, rng: Any) -> Cells:
    """Cells with these training values, the users' ``common`` effects and each cell's own."""
    users = len(counts)
    each = mean[:, None] + common + rng.normal(0, own * users**0.5, (len(mean), users))
    return Cells(each.mean(axis=1), each @ counts, *keys, users)


def draw(design: Design, counts: np.ndarray, rng: np.random.Generator) -> tuple[Cells, Cells]:
    """A source and its baseline in one world; the true difference is zero."""
    encoder, seed = _keys(design)
    trained = rng.normal(0, design.of_encoders, design.encoders)[encoder]
    trained += rng.normal(0, design.of_seeds, design.seeds)[seed] + rng.normal(0, design.of_trainings, len(seed))
    common = rng.normal(0, design.of_users * len(counts) ** 0.5, len(counts))
    ours = _cells(trained, common, design.of_users_and_cells, (encoder, seed), counts, rng)
    seeds = np.arange(design.seeds)
    ground = rng.normal(0, design.of_trainings, design.seeds)
    keys = np.zeros_like(seeds), seeds
    return ours, _cells(ground, np.zeros(len(counts)), design.of_users_and_cells, keys, counts, rng)


def coverage(designs: list[Design], worlds: int, resamples: int, users: int) -> list[dict[str, Any]]:
    """Of each design: the share of nominal 95 % intervals that hold the truth, their mean half-width and power.

    Power is the share of worlds in which a true difference of three true standard errors is found.
    """
    counts, settings, found = _counts(users, resamples), BootstrapSettings(resamples=resamples), []
    for number, design in enumerate(designs):
        rng = np.random.default_rng([number, worlds])
        own = [difference_interval(*draw(design, counts, rng), settings) for _ in range(worlds)]
        truth = np.std([one.mean for one in own])
        found.append(
            {
                "design": design,
                "coverage": float(np.mean([one.low <= 0 <= one.high for one in own])),
                "half-width": float(np.mean([(one.high - one.low) / 2 for one in own])),
                "power": float(np.mean([one.low + 3 * truth > 0 for one in own])),
            }
        )
    return found


def _null_report(spec: ComparisonSpec, counts: np.ndarray, rng: np.random.Generator) -> Measured:
    """Three sources of three encoders each against IDs only, two forms, three slices, none different from another."""
    users, (encoder, seed) = len(counts), _keys(Design(3, 5))
    common = {(part, metric): rng.normal(0, 0.5 * users**0.5, users) for part in SLICES for metric in ("gauc", "auc")}
    found: Measured = {}
    for source in ("courier", "clip", "simclr"):
        of_encoder = rng.normal(0, 0.5, 3)[encoder]
        for form in spec.forms:
            trained = of_encoder + rng.normal(0, 0.5, 5)
            for (part, metric), shared in common.items():
                keys = encoder, seed
                own = rng.normal(0, 0.5 * users**0.5, users) + shared
                found[(source, form, "dicm"), part, metric] = _cells(trained, own, 0.3, keys, counts, rng)
    ground = rng.normal(0, 0.5, 5)
    for (part, metric), shared in common.items():
        found[("ids", NO_FORM, "dicm"), part, metric] = _cells(
            ground, shared, 0.3, (np.zeros_like(seed), seed), counts, rng
        )
    return found


def false_reports(worlds: int, resamples: int, users: int) -> dict[str, float]:
    """Share of reports under the null that show any star, and of their intervals that exclude zero."""
    counts, settings = _counts(users, resamples), BootstrapSettings(resamples=resamples)
    spec = ComparisonSpec("ids", "courier", ["vector", "simscore"])
    chosen = {"dicm": {"ids": NO_FORM, "courier": "vector", "clip": "simscore", "simclr": "vector"}}
    stars, apart = [], []
    for world in range(worlds):
        rows = differences(_null_report(spec, counts, np.random.default_rng(world)), chosen, spec, settings)
        stars.append((rows["direction"] != 0).any())
        apart.append(((rows["low"] > 0) | (rows["high"] < 0)).mean())
    return {"any star": float(np.mean(stars)), "intervals that exclude zero": float(np.mean(apart))}


def main() -> None:
    print("# Coverage of the intervals\n\n`python -m tests.benchmarks.coverage`\n")
    columns = ("encoders", "seeds", "of_encoders", "of_trainings", "of_seeds", "of_users", "of_users_and_cells")
    print("Nominal 95 % intervals of a true difference of zero, 2,000 worlds each (standard error 0.5 points).\n")
    print("| design | " + " | ".join(name.replace("_", " ") for name in columns) + " | coverage | half-width | power |")
    print("|---" * (len(columns) + 4) + "|")
    rows = coverage(DESIGNS, worlds=2000, resamples=200, users=200)
    for row in rows:
        design = row["design"]
        kind = "crossed" if design.crossed else "paired"
        values = [f"{getattr(design, name):g}" for name in columns]
        figures = [f"{row['coverage']:.1%}", f"{row['half-width']:.2f}", f"{row['power']:.0%}"]
        print(f"| {' | '.join([kind, *values, *figures])} |")
    several = [row["coverage"] for row in rows if row["design"].encoders > 1]
    print(f"\nWith two encoders or more: {min(several):.1%} to {max(several):.1%}.")
    outside = sum(one < 0.93 for one in several), sum(one > 0.97 for one in several)
    print(f"Of these {len(several)} designs, {outside[0]} are below the wanted 93 to 97 %, {outside[1]} above.\n")
    print(f"{TWO_ENCODERS}\n")
    found = false_reports(worlds=400, resamples=200, users=200)
    print(f"Reports under the null with any star after Holm's correction (400 worlds): {found['any star']:.1%};")
    print(f"their single intervals that exclude zero: {found['intervals that exclude zero']:.1%}.")


if __name__ == "__main__":
    main()
