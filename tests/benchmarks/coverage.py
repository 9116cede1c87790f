"""How often the intervals of a comparison hold the truth, and how often a report under the null shows a star.

    python -m tests.benchmarks.coverage --kept FOLDER > results/benchmarks/coverage.md

Worlds are drawn with known noise of users (common to the cells, and of each cell), encoders and CTR trainings; each
goes through the project's own functions: a bootstrap over users, :func:`difference_interval`, and for whole reports
:func:`downstream.comparison.analysis.differences` with Holm's correction. Numbers are standard deviations in units of
one: of the mean over all users for users, of one encoder or training for the rest. What is finished is kept in FOLDER:
the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2, t

from data_tools.common.files import read_json, write_json
from downstream.comparison.analysis import Measured, differences
from downstream.comparison.spec import NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES
from downstream.statistics.intervals import BootstrapSettings, Cells, difference_interval, user_counts
from downstream.statistics.quantiles import Training, quantile


@dataclass(frozen=True)
class Design:
    """A source with encoders against another, at the same CTR seeds.

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
    others : int
        Encoders of the other source; 0 if it has none, as IDs only.
    """

    encoders: int
    seeds: int
    of_encoders: float = 0.0
    of_trainings: float = 0.0
    of_seeds: float = 0.0
    of_users: float = 1.0
    of_users_and_cells: float = 0.3
    crossed: bool = False
    others: int = 0

    @property
    def kind(self) -> str:
        """How the two sources share encoders and seeds."""
        return "crossed" if self.crossed else f"against {self.others}" if self.others else "paired"


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
NESTED = ((2, 2), (2, 4), (3, 3), (3, 5), (5, 5))
CROSSED = ((2, 2), (2, 3), (3, 3), (3, 5))
AGAINST = ((2, 3), (3, 2), (5, 3))
DESIGNS = (
    [Design(1, 3, **noise) for noise in NOISES if "of_encoders" not in noise]
    + [Design(e, s, **noise) for (e, s), noise in product(NESTED, NOISES)]
    + [Design(e, s, **noise, of_seeds=0.3, crossed=True) for (e, s), noise in product(CROSSED, NOISES)]
    + [Design(e, max(e, o), **noise, others=o) for (e, o), noise in product(AGAINST, NOISES) if "of_encoders" in noise]
)
# Whole reports without any difference: the k-th CTR seed on the k-th encoder, or crossed.
REPORTS = (
    Design(3, 5, of_encoders=0.5, of_trainings=0.5, of_users=0.5),
    Design(2, 2, of_encoders=1.5, of_trainings=0.25, of_users=0.5),
    Design(3, 3, of_encoders=1.5, of_trainings=0.25, of_users=0.5),
    Design(3, 3, of_encoders=1.5, of_trainings=0.25, of_users=0.5, crossed=True),
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
    if design.others:
        keys = seeds % design.others, seeds
        ground += rng.normal(0, design.of_encoders, design.others)[keys[0]]
    return ours, _cells(ground, np.zeros(len(counts)), design.of_users_and_cells, keys, counts, rng)


def coverage(
    designs: list[Design], worlds: int, resamples: int, users: int, kept: Path | None = None
) -> list[dict[str, Any]]:
    """Of each design: the share of nominal 95 % intervals that hold the truth, their mean half-width and power.

    Power is the share of worlds in which a true difference of three true standard errors is found.
    """
    counts, settings = _counts(users, resamples), BootstrapSettings(resamples=resamples)

    def measured(number: int, design: Design) -> dict[str, float]:
        rng = np.random.default_rng([number, worlds])
        own = [difference_interval(*draw(design, counts, rng), settings) for _ in range(worlds)]
        truth = np.std([one.mean for one in own])
        return {
            "coverage": float(np.mean([one.low <= 0 <= one.high for one in own])),
            "half-width": float(np.mean([(one.high - one.low) / 2 for one in own])),
            "power": float(np.mean([one.low + 3 * truth > 0 for one in own])),
        }

    return [
        {"design": design, **_kept(kept, f"design-{number}", lambda n=number, d=design: measured(n, d))}
        for number, design in enumerate(designs)
    ]


def _kept(folder: Path | None, name: str, made: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``made`` gives, from the folder where it is there already."""
    if folder is None:
        return made()
    if not (folder / f"{name}.json").exists():
        write_json(folder / f"{name}.json", made())
    return read_json(folder / f"{name}.json")


def _null_report(design: Design, spec: ComparisonSpec, counts: np.ndarray, rng: np.random.Generator) -> Measured:
    """Three sources against IDs only, two forms, three slices, none different from another."""
    users, (encoder, seed) = len(counts), _keys(design)
    spread = design.of_users * users**0.5
    common = {(part, metric): rng.normal(0, spread, users) for part in SLICES for metric in ("gauc", "auc")}
    found: Measured = {}
    for source in ("courier", "clip", "simclr"):
        of_encoder = rng.normal(0, design.of_encoders, design.encoders)[encoder]
        for form in spec.forms:
            trained = of_encoder + rng.normal(0, design.of_trainings, len(seed))
            for (part, metric), shared in common.items():
                own = rng.normal(0, spread, users) + shared
                cells = _cells(trained, own, design.of_users_and_cells, (encoder, seed), counts, rng)
                found[(source, form, "dicm"), part, metric] = cells
    seeds = np.arange(design.seeds)
    ground = rng.normal(0, design.of_trainings, design.seeds)
    for (part, metric), shared in common.items():
        cells = _cells(ground, shared, design.of_users_and_cells, (np.zeros_like(seeds), seeds), counts, rng)
        found[("ids", NO_FORM, "dicm"), part, metric] = cells
    return found


def false_reports(
    worlds: int, resamples: int, users: int, design: Design = REPORTS[0], first: int = 0
) -> dict[str, float]:
    """Share of reports under the null that show any star, and of their intervals that exclude zero."""
    counts, settings = _counts(users, resamples), BootstrapSettings(resamples=resamples)
    spec = ComparisonSpec("ids", "courier", ["vector", "simscore"])
    chosen = {"dicm": {"ids": NO_FORM, "courier": "vector", "clip": "simscore", "simclr": "vector"}}
    stars, apart = [], []
    for world in range(first, first + worlds):
        report = _null_report(design, spec, counts, np.random.default_rng(world))
        rows = differences(report, chosen, spec, settings)
        stars.append((rows["direction"] != 0).any())
        apart.append(((rows["low"] > 0) | (rows["high"] < 0)).mean())
    return {"any star": float(np.mean(stars)), "intervals that exclude zero": float(np.mean(apart))}


def _satterthwaite(training: Training, of_users: float, users: int, tail: float) -> float:
    (own, df), total = training.parts[0], training.variance + of_users
    return t.isf(tail, df * (total / own) ** 2)


def _cochran(training: Training, of_users: float, users: int, tail: float) -> float:
    (own, df), total = training.parts[0], training.variance + of_users
    return (own * t.isf(tail, df) + of_users * t.isf(tail, users - 1)) / total


RULES = {"ours": quantile, "Satterthwaite": _satterthwaite, "Cochran": _cochran}
RATIOS = (0.0, *np.geomspace(0.01, 100, 17))  # of the users' variance to that of training


def excluded(rule: Callable[..., float], df: int, tail: float, users: int = 2000, nodes: int = 300) -> np.ndarray:
    """How often the truth is outside, over 2 ``tail``, at each of RATIOS: quadrature over the variance of training."""
    variances = chi2.ppf((np.arange(nodes) + 0.5) / nodes, df) / df
    found = []
    for ratio in RATIOS:
        reach = [rule(Training(v, [(v, df)]), ratio, users, tail) * (v + ratio) ** 0.5 for v in variances]
        found.append(ndtr(-np.array(reach) / (1 + ratio) ** 0.5).mean() / tail)
    return np.array(found)


def print_rules() -> None:
    """Ours beside the usual quantiles, over all ratios of the variances."""
    print("\n## Over all ratios of users to training\n")
    print("One part of training beside users, by quadrature, from none to a hundred times the variance of training.\n")
    print("| quantile | encoders | coverage at 95 % | errors at a nominal .1 %, at most |\n|---|---|---|---|")
    for name, rule in RULES.items():
        for df in (1, 2, 4):
            at_95, tail = (excluded(rule, df, level / 2) for level in (0.05, 0.001))
            print(
                f"| {name} | {df + 1} | {1 - 0.05 * at_95.max():.1%} to {1 - 0.05 * at_95.min():.1%} | "
                f"{0.1 * tail.max():.2f} % |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=Path, help="folder of what is finished")
    parser.add_argument("--worlds", type=int, default=2000, help="of each design")
    given = parser.parse_args()
    if given.kept:
        given.kept.mkdir(parents=True, exist_ok=True)
    worlds, error = given.worlds, (0.95 * 0.05 / given.worlds) ** 0.5
    print("# Coverage of the intervals\n\n`python -m tests.benchmarks.coverage`\n")
    columns = ("encoders", "seeds", "of_encoders", "of_trainings", "of_seeds", "of_users", "of_users_and_cells")
    print(
        f"Nominal 95 % intervals of a true difference of zero, {worlds:,} worlds each: a standard error of "
        f"{100 * error:.2f} points, so that the lowest and the highest of so many designs are off by chance by up to "
        f"{100 * 2.5 * error:.1f}. Paired: the k-th CTR seed on the k-th encoder, against a source without encoders; "
        "crossed: every CTR seed on every encoder; against: another source with its own encoders, so many.\n"
    )
    print("| design | " + " | ".join(name.replace("_", " ") for name in columns) + " | coverage | half-width | power |")
    print("|---" * (len(columns) + 4) + "|")
    rows = coverage(DESIGNS, worlds=worlds, resamples=200, users=200, kept=given.kept)
    for row in rows:
        design = row["design"]
        values = [f"{getattr(design, name):g}" for name in columns]
        figures = [f"{row['coverage']:.1%}", f"{row['half-width']:.2f}", f"{row['power']:.0%}"]
        print(f"| {' | '.join([design.kind, *values, *figures])} |")
    several = [row["coverage"] for row in rows if row["design"].encoders > 1]
    outside = sum(one < 0.93 for one in several), sum(one > 0.97 for one in several)
    print(f"\nWith two encoders or more, {len(several)} designs: {min(several):.1%} to {max(several):.1%}; ", end="")
    print(f"{outside[0]} below the wanted 93 to 97 %, {outside[1]} above.")
    print_rules()
    print("\n## Whole reports\n\nReports without any true difference, 400 worlds each (standard error 1.1 points).\n")
    print("| design | encoders | of encoders, over users | any star after Holm | single intervals that exclude zero |")
    print("|---|---|---|---|---|")
    for number, design in enumerate(REPORTS):
        parts = [
            _kept(given.kept, f"report-{number}-{k}", lambda d=design, k=k: false_reports(50, 100, 200, d, 50 * k))
            for k in range(8)
        ]
        found = [f"{np.mean([part[name] for part in parts]):.1%}" for name in parts[0]]
        ratio = design.of_encoders / design.of_users
        print(f"| {design.kind} | {design.encoders} | {ratio:g} | {found[0]} | {found[1]} |", flush=True)


if __name__ == "__main__":
    main()
