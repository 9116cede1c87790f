"""Intervals of committed comparisons, stated again from their kept figures, as a report would state them today.

    python -m tests.restate configs/compare/photos_longer.yaml=results/photos-longer > results/restated.md

The cells' values give the variance that encoders and CTR trainings cause. That of users is the square of the kept
standard error less what the cells put into it:

- Reports since intervals count encoders, CTR trainings and users once each put just that variance into it: what is
  stated again is exact, but for the number of users, which is taken as 2,000.
- Earlier ones resampled users and cells together, as if the n cells were independent, which puts (n - 1) / n of their
  variance over n into it (ours, approximate). The k-th CTR seed was run on the k-th encoder, from the first again.

Everything else is :func:`downstream.statistics.intervals.contrast_interval` and Holm's correction over the report.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from scipy.stats import norm

from downstream.comparison.analysis import correct
from downstream.comparison.figures import Figures, frame, records, select
from downstream.comparison.spec import BEST, ComparisonSpec, Primary
from downstream.report.summary import write_summary
from downstream.report.verdict import verdict
from downstream.report.words import Names, signed
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.statistics.intervals import Cells, Interval, difference_interval

USERS, DRAWS = 2000, 400
SLICES = ("all", "cold")
SENTENCES = {"compared": "Compared", "sure": "How sure"}  # of the summary -> how they begin in report.md
# By whether there was a star, and whether there is one now.
STAR = {(True, True): "stays", (True, False): "**lost**", (False, True): "new", (False, False): "none"}


def encoders_of(config: dict[str, Any]) -> dict[str, int]:
    """Source -> number of its encoders."""
    found = {}
    for name, source in config["sources"].items():
        runs = (source or {}).get("run")
        found[name] = len(runs) if isinstance(runs, list) else 1
    return found


def cells_of(figures: Figures, source: str, form: str, row: dict[str, Any], encoders: int) -> Cells:
    """The cells of one side of a difference, without what users cause."""
    own = select(figures.cells, source=source, form=form, model=row["model"], slice=row["slice"]).sort("seed")
    values, seed = own["gauc"].to_numpy(), own["seed"].to_numpy()
    kept = own["encoder"].to_numpy()
    encoder = np.arange(len(seed)) % encoders if np.isnan(kept.astype(float)).any() else kept
    return Cells(values, np.repeat(values[:, None], DRAWS, axis=1), encoder, seed, USERS)


def restated(figures: Figures, row: dict[str, Any], encoders: dict[str, int]) -> tuple[tuple, Interval]:
    """What is compared, and the interval of a committed difference."""
    sides = []
    for source in (row["a"], row["b"]):
        best = figures.chosen_form(row["model"], source)
        sides.append((source, best if row["form"] == BEST or best == "none" else row["form"]))
    ours, theirs = (cells_of(figures, *side, row, encoders[side[0]]) for side in sides)
    without_users = difference_interval(ours, theirs, BootstrapSettings()).spread
    in_cells = without_users**2
    if row["encoders"] is None:
        both = sorted(set(ours.seed.tolist()) & set(theirs.seed.tolist()))
        first, second = (dict(zip(side.seed.tolist(), side.values, strict=True)) for side in (ours, theirs))
        in_cells = np.var([first[seed] - second[seed] for seed in both]) / len(both)
    drawn = norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS)
    drawn *= np.sqrt(max(row["spread"] ** 2 - in_cells, 0.0)) / drawn.std()
    ours = replace(ours, draws=ours.draws + drawn)
    return (*sides, row["model"], row["slice"]), difference_interval(ours, theirs, BootstrapSettings())


def rows_again(config: dict[str, Any], figures: Figures) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """The committed GAUC differences, the same stated again, and how many distinct ones are tested together."""
    encoders = encoders_of(config)
    rows = records(figures.differences.filter(pl.col("p").is_not_null()), metric="gauc")
    found = [restated(figures, row, encoders) for row in rows]
    tests = [(*test, "gauc") for test, _ in found]
    again = [row | asdict(new) for row, (_, new) in zip(rows, found, strict=True)]
    correct(again, tests, 0.05)
    return rows, again, len(set(tests))


def draw_summary(config: dict[str, Any], results: Path) -> None:
    """The one-page summary as stated again, ``restated.png``; shares of the ceiling are as committed."""
    figures, primary = Figures.read(results / "figures.json"), config.get("primary")
    figures = replace(figures, differences=frame("differences", rows_again(config, figures)[1]))
    roles = (config["baseline"], config["main"], list(config["forms"]), config.get("ceiling"))
    spec = ComparisonSpec(*roles, Primary(**primary) if primary else None, config.get("names", {}))
    report = (results / "report.md").read_text(encoding="utf-8")
    said = {key: re.search(rf"^{word}: (.*)$", report, re.M)[1] for key, word in SENTENCES.items()}
    context = {"title": config["title"], "verdict": verdict(figures, spec), "level": "95%", **said}
    write_summary(results / "restated.png", figures, spec, context)


def print_table(config_file: Path, results: Path) -> None:
    """The differences of one comparison, each source in its best form, as committed and stated again."""
    config, names = yaml.safe_load(config_file.read_text(encoding="utf-8")), Names({})
    figures = Figures.read(results / "figures.json")
    rows, again, tested = rows_again(config, figures)
    wanted = BEST if any(row["form"] == BEST for row in rows) else rows[0]["form"]
    commit = figures.made_by["commit"]
    print(f"\n## {results}\n\n{tested} differences tested together; `{config_file}`, commit {commit}.\n")
    print("| GAUC difference | items | as committed | stated again | p | p after Holm | star |")
    print("|---|---|---|---|---|---|---|")
    for row, new in zip(rows, again, strict=True):
        if row["form"] == wanted and row["slice"] in SLICES:
            said = STAR[row["direction"] != 0, new["direction"] != 0]
            pair = f"{names(row['a'])} − {names(row['b'])}" + ", declared before the run" * bool(row["primary"])
            print(
                f"| {pair} | {row['slice']} | {signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])}) | "
                f"{signed(new['mean'])} ({signed(new['low'])} to {signed(new['high'])}) | {new['p']:.2g} | "
                f"{new['p_holm']:.2g} | {said} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="CONFIG=RESULTS")
    parser.add_argument(
        "--summary", action="store_true", help="draw the one-page summaries instead: RESULTS/restated.png"
    )
    given = parser.parse_args()
    pairs = [pair.split("=") for pair in given.pairs]
    if given.summary:
        for config, results in pairs:
            draw_summary(yaml.safe_load(Path(config).read_text(encoding="utf-8")), Path(results))
        return
    print("# Earlier comparisons, stated again\n\n`python -m tests.restate CONFIG=RESULTS ...`\n")
    print(
        "Each source in its best form on validation. Stated again: users, encoders and CTR trainings once each, from "
        "the kept figures, with today's quantile (results/benchmarks/coverage.md). As committed: in the first headline "
        "the same with an earlier quantile; in the others users and cells resampled together, as if cells of one "
        "encoder were independent, so that what is stated again is an approximation, described in the program. The "
        "mean is over encoders. Star: significant after Holm's correction over the whole report."
    )
    for config, results in pairs:
        print_table(Path(config), Path(results))


if __name__ == "__main__":
    main()
