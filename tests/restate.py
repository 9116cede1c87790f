"""Intervals of committed comparisons, stated again with encoders, CTR trainings and users counted once each.

    python -m tests.restate configs/compare/photos_longer.yaml=results/photos-longer > results/restated.md

Reports made before the intervals of nested seeds resampled users and cells together, the cells as if they were
independent. Their kept figures suffice for an approximation (ours): the cells' values give the variance between
encoders; the variance over users is the square of the old standard error less what resampling the n cells put into it,
(n - 1) / n times their variance over n. Everything else is :func:`downstream.statistics.intervals.contrast_interval`
and Holm's correction over the report. The k-th CTR seed was run on the k-th encoder, from the first again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from scipy.stats import norm

from downstream.comparison.figures import Figures, records, select
from downstream.comparison.spec import BEST
from downstream.report.words import Names, signed
from downstream.statistics.intervals import BootstrapSettings, Cells, Interval, contrast_interval, holm

USERS, DRAWS = 2000, 400
SLICES = ("all", "cold")
# By whether there was a star, and whether there is one now.
STAR = {(True, True): "stays", (True, False): "**lost**", (False, True): "new", (False, False): "none"}


def encoders_of(config: dict[str, Any]) -> dict[str, int]:
    """Source -> number of its encoders."""
    found = {}
    for name, source in config["sources"].items():
        runs = (source or {}).get("run")
        found[name] = len(runs) if isinstance(runs, list) else 1
    return found


def values(figures: Figures, source: str, form: str, row: dict[str, Any]) -> dict[int, float]:
    """CTR seed -> GAUC."""
    own = select(figures.cells, source=source, form=form, model=row["model"], slice=row["slice"])
    return dict(own.select("seed", "gauc").iter_rows())


def restated(figures: Figures, row: dict[str, Any], encoders: dict[str, int]) -> tuple[tuple, Interval]:
    """What is compared, and the interval of a committed difference."""
    sides = []
    for source in (row["a"], row["b"]):
        best = figures.chosen_form(row["model"], source)
        sides.append((source, best if row["form"] == BEST or best == "none" else row["form"]))
    ours, theirs = (values(figures, *side, row) for side in sides)
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    number = max(encoders[row["a"]], encoders[row["b"]])
    of_users = max(row["spread"] ** 2 - differences.var() / len(seeds), 0.0)
    drawn = norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS)
    drawn *= np.sqrt(of_users) / drawn.std()
    encoder = np.arange(len(seeds)) % number
    cells = Cells(differences, differences[:, None] + drawn, encoder, np.array(seeds), USERS)
    return (*sides, row["model"], row["slice"]), contrast_interval([(1.0, cells)], BootstrapSettings())


def print_table(config: Path, results: Path) -> None:
    """The differences of one comparison, each source in its best form, as committed and stated again."""
    encoders, names = encoders_of(yaml.safe_load(config.read_text(encoding="utf-8"))), Names({})
    figures = Figures.read(results / "figures.json")
    rows = records(figures.differences.filter(pl.col("p").is_not_null()), metric="gauc")
    found = [restated(figures, row, encoders) for row in rows]
    family = {test: interval.p for test, interval in found}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    wanted = BEST if any(row["form"] == BEST for row in rows) else rows[0]["form"]
    commit = figures.made_by["commit"]
    print(f"\n## {results}\n\n{len(family)} differences tested together; `{config}`, commit {commit}.\n")
    print("| GAUC difference | items | as committed | stated again | p | p after Holm | star |")
    print("|---|---|---|---|---|---|---|")
    for row, (test, new) in zip(rows, found, strict=True):
        if row["form"] == wanted and row["slice"] in SLICES:
            said = STAR[row["direction"] != 0, adjusted[test] < 0.05]
            pair = f"{names(row['a'])} − {names(row['b'])}"
            print(
                f"| {pair} | {row['slice']} | {signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])}) | "
                f"{signed(new.mean)} ({signed(new.low)} to {signed(new.high)}) | {new.p:.2g} | {adjusted[test]:.2g} | "
                f"{said} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="CONFIG=RESULTS")
    pairs = [pair.split("=") for pair in parser.parse_args().pairs]
    print("# Earlier comparisons, stated again\n\n`python -m tests.restate CONFIG=RESULTS ...`\n")
    print(
        "Each source in its best form on validation. As committed: users and cells resampled together, as if cells of "
        "one encoder were independent. Stated again: users, encoders and CTR trainings once each, from the kept "
        "figures (an approximation, described in the program); the mean is over encoders. Star: significant after "
        "Holm's correction over the whole report."
    )
    for config, results in pairs:
        print_table(Path(config), Path(results))


if __name__ == "__main__":
    main()
