"""Finished runs in one table: page AUC, effective rank and time of each setting over its seeds."""

from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.errors import UserError
from data_tools.common.files import read_json
from data_tools.common.lists import comma_separated
from data_tools.measures.spread import mean_and_spread
from pretrain.training.runs import read_settings, read_summary

HEADER = (
    "run",
    "seeds",
    "validation, chosen on",
    "page AUC, cold",
    "page AUC, warm",
    "effective rank",
    "steps",
    "seconds",
)
PARTS = ("cold", "warm")


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes
    ----------
    folder : path
    summary : dict
        See ``pretrain.training.summary``.
    validation : float
        Page AUC that its weights were chosen by.
    """

    folder: Path
    summary: dict[str, Any]
    validation: float


def finished_runs(places: str) -> dict[str, list[Finished]]:
    """Name -> its runs, one a seed: those whose settings agree except for seed and folder, however the data are spelt.

    Parameters
    ----------
    places : str
        Run folders: a glob, or several separated by commas.

    Raises
    ------
    UserError
        If no place holds a finished run.
    """
    folders = [Path(found) for place in comma_separated(places) for found in sorted(glob.glob(place))]
    groups: dict[str, list[Finished]] = {}
    for folder in folders:
        if (folder / "summary.json").exists():
            one = Finished(folder, read_summary(folder), read_json(folder / "best.json")["auc"])
            groups.setdefault(_same_settings(folder), []).append(one)
    if not groups:
        raise UserError(f"{places}: {len(folders)} folders, none with a finished run (summary.json); name run folders")
    named: dict[str, list[Finished]] = {}
    for own in groups.values():
        name = re.sub(r"[-_](seed)?\d+$", "", own[0].folder.name)
        named[name if name not in named else own[0].folder.name] = own
    return named


def _same_settings(folder: Path) -> str:
    """Text that is the same for runs whose settings agree except for seed and folder."""
    settings = asdict(read_settings(folder))
    settings["data"] = settings["data"] and os.path.realpath(settings["data"])
    return json.dumps({key: value for key, value in settings.items() if key not in ("seed", "out", "resume")})


def table_lines(groups: dict[str, list[Finished]]) -> list[list[str]]:
    """One line a name, the best on validation first; above them the oracle, below them the untrained encoders."""
    by_validation = sorted(groups, key=lambda name: -np.mean([one.validation for one in groups[name]]))
    table = [_line(name, groups[name]) for name in by_validation]
    every = list({one.summary["seed"]: one.summary for own in groups.values() for one in own}.values())
    table.append(["untrained", "", "", *_page_aucs(every, "untrained"), "", "0", ""])
    if all("oracle" in one["page_auc"].get("warm", {}) for one in every):
        # The validation and test requests of one world have one oracle.
        table.insert(0, ["oracle", "", "", *_page_aucs(every[:1], "oracle"), "", "", ""])
    return table


def _line(name: str, own: list[Finished]) -> list[str]:
    summaries = [one.summary for one in own]
    return [
        name,
        ", ".join(str(one["seed"]) for one in summaries),
        mean_and_spread([one.validation for one in own]),
        *_page_aucs(summaries, "trained"),
        mean_and_spread([one["effective_rank"] for one in summaries], 1),
        str(summaries[0]["steps"]),
        mean_and_spread([one["seconds"] for one in summaries], 0),
    ]


def _page_aucs(summaries: list[dict[str, Any]], what: str) -> list[str]:
    """Page AUC of cold and of warm items over the runs."""
    return [
        mean_and_spread([one["page_auc"][part][what] for one in summaries if part in one["page_auc"]]) for part in PARTS
    ]


def markdown(groups: dict[str, list[Finished]], command: str) -> str:
    """The table, and what made the runs."""
    made = [read_json(one.folder / "run.json") for own in groups.values() for one in own]
    commits = ", ".join(sorted({one["commit"] for one in made}))
    machine = ", ".join(str(value) for value in made[0]["machine"].values() if value)
    rows = [HEADER, ["---"] * len(HEADER), *table_lines(groups)]
    return "\n".join(
        [
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "Page AUC: that of SimScore within a page view, on test requests, of cold items (in no training request) "
            "and of warm ones; validation: the same on the validation requests and the items (cold, unless set "
            "otherwise) on which the best weights are chosen; ± the standard deviation over the seeds.",
            "",
            f"- Command: {command}",
            f"- Commits of the runs: {commits}",
            f"- Machine: {machine}",
            "",
        ]
    )
