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
from scipy.stats import chi2, qmc, t

from data_tools.common.files import read_json, write_json
from downstream.comparison.analysis import Measured, differences
from downstream.comparison.spec import NO_FORM, ComparisonSpec
from downstream.data.ctr_data import SLICES
from downstream.statistics.bootstrap import BootstrapSettings, user_counts
from downstream.statistics.intervals import Cells, difference_interval
from downstream.statistics.quantiles import Training, quantile


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
NESTED = ((2, 2), (2, 4), (3, 3), (3, 5), (5, 5))
CROSSED = ((2, 2), (2, 3), (3, 3), (3, 5))
DESIGNS = (
    [Design(1, 3, **noise) for noise in NOISES if "of_encoders" not in noise]
    + [Design(e, s, **noise) for (e, s), noise in product(NESTED, NOISES)]
    + [Design(e, s, **noise, of_seeds=0.3, crossed=True) for (e, s), noise in product(CROSSED, NOISES)]
)
REPORT = Design(3, 5, of_encoders=0.5, of_trainings=0.5, of_users=0.5)


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
    """Of each design: the share of nominal 95 % intervals that hold the truth, through the project's functions."""
    counts, settings, found = _counts(users, resamples), BootstrapSettings(resamples=resamples), []
    for number, design in enumerate(designs):
        rng = np.random.default_rng([number, worlds])
        own = [difference_interval(*draw(design, counts, rng), settings) for _ in range(worlds)]
        found.append({"design": design, "coverage": float(np.mean([one.low <= 0 <= one.high for one in own]))})
    return found


@dataclass(frozen=True)
class Estimates:
    """What intervals rest on, of many worlds: float64 (worlds,) each."""

    mean: np.ndarray
    of_users: np.ndarray
    parts: list[np.ndarray]
    degrees: list[int]

    def training(self, world: int) -> Training:
        """What training contributes in one world."""
        own = [float(part[world]) for part in self.parts]
        parts = list(zip(own, self.degrees, strict=True))
        if len(own) < 3:
            return Training(sum(own), parts)
        return Training(max(own[0], own[1], own[0] + own[1] - own[2]), parts[:2], self.degrees[2])


def _mean_squares(values: np.ndarray, design: Design) -> tuple[list[np.ndarray], list[int]]:
    """Mean squares over the number of cells, and their degrees of freedom, of values (cells, ...)."""
    encoder, _ = _keys(design)
    e, c = design.encoders, design.seeds
    if e == 1:
        return [values.var(axis=0, ddof=1) / c], [c - 1]
    if not design.crossed:
        means = np.stack([values[encoder == one].mean(axis=0) for one in range(e)])
        return [means.var(axis=0, ddof=1) / e], [e - 1]
    grid = values.reshape(e, c, *values.shape[1:])
    rows, columns = grid.mean(axis=1), grid.mean(axis=0)
    residual = ((grid - rows[:, None] - columns + grid.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1)) / ((e - 1) * (c - 1))
    squares = [rows.var(axis=0, ddof=1) / e, columns.var(axis=0, ddof=1) / c, residual / (e * c)]
    return squares, [e - 1, c - 1, (e - 1) * (c - 1)]


def estimates(design: Design, counts: np.ndarray, worlds: int, rng: np.random.Generator) -> Estimates:
    """Many worlds at once; tests/test_benchmarks.py holds them against the project's own intervals."""
    (encoder, seed), users = _keys(design), len(counts)
    trained = rng.normal(0, design.of_encoders, (design.encoders, worlds))[encoder]
    trained = trained + rng.normal(0, design.of_seeds, (design.seeds, worlds))[seed]
    trained += rng.normal(0, design.of_trainings, (len(seed), worlds))
    spread = design.of_users_and_cells * users**0.5
    each = rng.normal(0, design.of_users * users**0.5, (worlds, users))
    each = each + rng.normal(0, spread, (len(seed), worlds, users))
    each -= rng.normal(0, spread, (design.seeds, worlds, users))[seed]
    values = trained - rng.normal(0, design.of_trainings, (design.seeds, worlds))[seed] + each.mean(axis=-1)
    draws = (each.reshape(-1, users) @ counts).reshape(len(seed), worlds, -1)
    _, which, sizes = np.unique(encoder, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[which])
    parts, degrees = _mean_squares(values, design)
    noise, _ = _mean_squares(draws - draws.mean(axis=-1, keepdims=True), design)
    counted = (sum(noise[:2]) - sum(noise[2:])).mean(axis=-1)
    of_users = users / (users - 1) * np.maximum(np.tensordot(weights, draws, 1).var(axis=-1) - counted, 0)
    return Estimates(weights @ values, of_users, parts, degrees)


def measured(number: int, design: Design, worlds: int, users: int = 200, block: int = 1000) -> dict[str, float]:
    """Coverage, mean half-width and power: how often a true difference of three true standard errors is found."""
    counts, rng = _counts(users, users), np.random.default_rng([number, worlds, 7])
    means, reaches = [], []
    for _ in range(worlds // block):
        own = estimates(design, counts, block, rng)
        means.append(own.mean)
        for world in range(block):
            training, of_users = own.training(world), float(own.of_users[world])
            error = (training.variance + of_users) ** 0.5
            reaches.append(quantile(training, of_users, users, 0.025) * error)
    mean, reach = np.concatenate(means), np.array(reaches)
    return {
        "coverage": float((np.abs(mean) <= reach).mean()),
        "half-width": float(reach.mean()),
        "power": float((mean + 3 * mean.std() > reach).mean()),
    }


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


def false_reports(worlds: int, resamples: int, users: int, design: Design = REPORT) -> dict[str, float]:
    """Share of reports under the null that show any star, and of their intervals that exclude zero."""
    counts, settings = _counts(users, resamples), BootstrapSettings(resamples=resamples)
    spec = ComparisonSpec("ids", "courier", ["vector", "simscore"])
    chosen = {"dicm": {"ids": NO_FORM, "courier": "vector", "clip": "simscore", "simclr": "vector"}}
    stars, apart = [], []
    for world in range(worlds):
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


def extremes(degrees: list[int], nodes: int = 1024) -> tuple[float, float]:
    """The lowest and highest coverage of two parts of training beside users, over ratios of all variances.

    With three ``degrees`` the parts are of crossed seeds, the last is the residual's; with two, of independent sources.
    """
    drawn = qmc.Sobol(len(degrees), seed=0).random(nodes)
    squares = [chi2.ppf(own, df) / df for own, df in zip(drawn.T, degrees, strict=True)]
    crossed, found = len(degrees) == 3, []
    shares = (
        [(e, c, 1.0) for e, c in product((1, 3, 30), repeat=2)] if crossed else [(1, 0), (1, 0.3), (1, 1), (0.3, 1)]
    )
    for share, ratio in product(shares, (0.0, 0.05, 0.3, 1.0, 4.0)):
        truth = sum(share[:2]) - sum(share[2:])
        own = [variance * square for variance, square in zip(share, squares, strict=True)]
        worlds, of_users = Estimates(np.zeros(nodes), np.full(nodes, ratio * truth), own, degrees), ratio * truth
        reach = []
        for world in range(nodes):
            training = worlds.training(world) if crossed else _independent(own, degrees, world)
            reach.append(quantile(training, of_users, 10_000, 0.025) * (training.variance + of_users) ** 0.5)
        found.append(1 - 2 * ndtr(-np.array(reach) / (truth + of_users) ** 0.5).mean())
    return min(found), max(found)


def _independent(variances: list[np.ndarray], degrees: list[int], world: int) -> Training:
    own = [float(variance[world]) for variance in variances]
    return Training(sum(own), list(zip(own, degrees, strict=True)))


def print_extremes() -> None:
    """Where no quantile suits every ratio."""
    print(
        "\nWith two parts of training, both known from few degrees of freedom, no quantile suits every ratio. Over all "
        "ratios (encoders, seeds or sources from equal to thirty times each other, users from none to four times all "
        "of it) coverage leaves 93 to 97 % at the ends: it is highest where encoders do not differ at all, or two "
        "sources with different numbers of encoders spread alike, and lowest where one part is nearly all.\n\n"
        "| parts | coverage at 95 % |\n|---|---|"
    )
    for e, c in CROSSED:
        low, high = extremes([e - 1, c - 1, (e - 1) * (c - 1)])
        print(f"| {e} encoders crossed with {c} seeds | {low:.1%} to {high:.1%} |")
    for e, o in ((2, 3), (3, 5)):
        low, high = extremes([e - 1, o - 1])
        print(f"| {e} encoders against {o} of their own | {low:.1%} to {high:.1%} |")


def starred(encoders: int, sources: int, forms: int, ratio: float, worlds: int, slices: int = 3) -> tuple[int, float]:
    """Number of differences of a null report, and the share of such reports with any star after Holm's correction.

    One CTR training an encoder, users known exactly, each source against IDs and the first against the others;
    encoders spread ``ratio`` times as much as users. Holm's first step decides on any star.
    """
    rng, size = np.random.default_rng(0), (worlds, sources, forms, slices, encoders)
    trained = rng.normal(0, ratio, (worlds, sources, 1, 1, encoders))
    trained = trained + rng.normal(0, ratio / 6, (worlds, sources, forms, 1, encoders))
    cells = trained + rng.normal(0, 0.3, size)
    ground = rng.normal(0, ratio / 6, (worlds, 1, 1, 1, encoders)) + rng.normal(
        0, 0.3, (worlds, 1, 1, slices, encoders)
    )
    users = rng.normal(size=size[:-1])
    contrasts = [(cells - ground, users, 1.0), (cells[:, :1] - cells[:, 1:], users[:, :1] - users[:, 1:], 2.0)]
    number = sum(by_user[0].size for _, by_user, _ in contrasts)
    found = np.zeros(worlds, dtype=bool)
    for own, by_user, of_users in contrasts:
        variance = own.var(axis=-1, ddof=1) / encoders
        grid = np.geomspace(1e-9, 1e9, 600)  # the quantile is smooth in the variance
        known = [quantile(Training(v, [(v, encoders - 1)]), of_users, 10_000, 0.025 / number) for v in grid]
        reach = np.interp(np.log(variance), np.log(grid), known) * np.sqrt(variance + of_users)
        found |= (np.abs(own.mean(axis=-1) + by_user) > reach).reshape(worlds, -1).any(axis=1)
    return number, float(found.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", type=Path, help="folder of what is finished")
    parser.add_argument("--worlds", type=int, default=10_000, help="of each design")
    given = parser.parse_args()
    if given.kept:
        given.kept.mkdir(parents=True, exist_ok=True)
    worlds, error = given.worlds, (0.95 * 0.05 / given.worlds) ** 0.5
    print("# Coverage of the intervals\n\n`python -m tests.benchmarks.coverage`\n")
    columns = ("encoders", "seeds", "of_encoders", "of_trainings", "of_seeds", "of_users", "of_users_and_cells")
    print(
        f"Nominal 95 % intervals of a true difference of zero, {worlds:,} worlds each: a standard error of "
        f"{100 * error:.2f} points. Paired: the k-th CTR seed on the k-th encoder, from the first again; crossed: "
        "every CTR seed on every encoder. Noise is in standard deviations; power is for a difference of three standard "
        "errors.\n"
    )
    print("| design | " + " | ".join(name.replace("_", " ") for name in columns) + " | coverage | half-width | power |")
    print("|---" * (len(columns) + 4) + "|")
    several = []
    for number, design in enumerate(DESIGNS):
        row = _kept(given.kept, f"design-{number}", lambda n=number, d=design: measured(n, d, worlds))
        values = [f"{getattr(design, name):g}" for name in columns]
        figures = [f"{row['coverage']:.1%}", f"{row['half-width']:.2f}", f"{row['power']:.0%}"]
        print(f"| {' | '.join(['crossed' if design.crossed else 'paired', *values, *figures])} |")
        several += [row["coverage"]] * (design.encoders > 1)
    outside = sum(one < 0.93 for one in several), sum(one > 0.97 for one in several)
    print(f"\nWith two encoders or more, {len(several)} designs: {min(several):.1%} to {max(several):.1%}; ", end="")
    print(f"{outside[0]} below the wanted 93 to 97 %, {outside[1]} above.")
    print_rules()
    print_extremes()
    print("\n## Whole reports\n\nReports without any true difference; 2,000 each: a standard error of .5 points.\n")
    print("| encoders | differences | spread of encoders, over users | any star after Holm |\n|---|---|---|---|")
    for encoders, (sources, forms), ratio in product((2, 3, 5), ((3, 2), (10, 6)), (0.3, 1, 3, 6, 15)):
        number, share = starred(encoders, sources, forms, ratio, 2000)
        print(f"| {encoders} | {number} | {ratio:g} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
