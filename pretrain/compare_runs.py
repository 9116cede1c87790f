"""Finished runs side by side: page AUC, effective rank and time of each objective over its seeds.

    python -m pretrain.compare_runs --runs 'runs/objectives/*' --out results/objectives/runs.md

Runs that differ in seed and folder alone are one line: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, whole_file
from data_tools.common.pages import mean_sd
from data_tools.common.provenance import this_command

HEADER = (
    "run",
    "seeds",
    "validation, chosen on",
    "page AUC, unseen",
    "page AUC, seen",
    "effective rank",
    "steps",
    "seconds",
)


@dataclass(kw_only=True)
class Settings:
    """What to put side by side.

    Attributes:
        runs: Run folders: a glob, or several between commas.
        out: A Markdown file to write beside showing the table; none by default.
    """

    runs: str
    out: str | None = None


def finished_runs(places: str) -> dict[str, list[Path]]:
    """Name -> its runs, one a seed: those whose settings agree but for seed and folder, however the data are spelt.

    Raises
    ------
    UserError
        If no place holds a finished run.
    """
    folders = [Path(found) for place in places.split(",") for found in sorted(glob.glob(place.strip()))]
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        if (folder / "summary.json").exists():
            settings = read_json(folder / "run.json")["settings"]
            settings["data"] = settings["data"] and os.path.realpath(settings["data"])
            same = json.dumps({key: value for key, value in settings.items() if key not in ("seed", "out", "resume")})
            groups.setdefault(same, []).append(folder)
    if not groups:
        raise UserError(f"{places}: {len(folders)} folders, none with a finished run (summary.json); name run folders")
    named: dict[str, list[Path]] = {}
    for own in groups.values():
        name = re.sub(r"[-_](seed)?\d+$", "", own[0].name)
        named[name if name not in named else own[0].name] = own
    return named


def _of(summaries: list[dict[str, Any]], part: str, what: str) -> list[float]:
    return [one["page_auc"][part][what] for one in summaries if part in one["page_auc"]]


def lines(groups: dict[str, list[Path]]) -> list[list[str]]:
    """One line a name, the best on validation first; above them the oracle, below them the untrained."""
    found = {name: [read_json(folder / "summary.json") for folder in own] for name, own in groups.items()}

    def aucs(summaries: list[dict[str, Any]], what: str) -> list[str]:
        values = [_of(summaries, part, what) for part in ("unseen", "seen")]
        return [mean_sd(own) for own in values]

    chosen = {name: [read_json(folder / "best.json")["auc"] for folder in own] for name, own in groups.items()}
    table = []
    for name in sorted(found, key=lambda name: -np.mean(chosen[name])):
        own = found[name]
        figures = [("effective_rank", 1), ("steps", 0), ("seconds", 0)]
        seeds = ", ".join(str(one["seed"]) for one in own)
        told = [mean_sd([one[key] for one in own], digits) for key, digits in figures]
        told[1] = str(own[0]["steps"])
        table.append([name, seeds, mean_sd(chosen[name]), *aucs(own, "trained"), *told])
    every = list({one["seed"]: one for own in found.values() for one in own}.values())
    table.append(["untrained", "", "", *aucs(every, "untrained"), "", "0", ""])
    if all("oracle" in one["page_auc"].get("seen", {}) for one in every):
        # The validation and test requests of one world have one oracle.
        table.insert(0, ["oracle", "", "", *aucs(every[:1], "oracle"), "", "", ""])
    return table


def markdown(groups: dict[str, list[Path]], table: list[list[str]], command: str) -> str:
    """The table, and what made the runs."""
    made = [read_json(folder / "run.json") for own in groups.values() for folder in own]
    commits = ", ".join(sorted({one["commit"] for one in made}))
    machine = ", ".join(str(value) for value in made[0]["machine"].values() if value)
    rows = [HEADER, ["---"] * len(HEADER), *table]
    return "\n".join(
        [
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "Page AUC: that of SimScore within a page view, on test requests; validation: the same on the validation "
            "requests and the items (unseen, where not set otherwise) on which the best weights are chosen; ± the "
            "standard deviation over the seeds.",
            "",
            f"- Command: {command}",
            f"- Commits of the runs: {commits}",
            f"- Machine: {machine}",
            "",
        ]
    )


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    groups = finished_runs(settings.runs)
    text = markdown(groups, lines(groups), this_command(__spec__.name))
    Console().print(text, soft_wrap=True, highlight=False, markup=False)
    if settings.out:
        with whole_file(Path(settings.out)) as scratch:
            scratch.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
