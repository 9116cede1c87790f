"""Recall of a two-tower model: how often the clicked item is among the k nearest of the whole catalogue.

    python -m downstream.retrieval --run RUN

RUN is a run of ``downstream.train`` with a model of two towers (dssm, dqm). Prints recall@k next to that of the most
clicked items, which are the same for everybody, and writes RUN/retrieval.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.table import Table

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from downstream.models.towers import Towers
from downstream.studies.retrieval import retrieve
from downstream.training.saved_runs import load_run


@dataclass(frozen=True)
class Settings(Checked):
    """Recall@k of a trained two-tower model.

    Attributes
    ----------
    run : str
        Run folder of downstream.train.
    k : tuple of int
        Numbers of items retrieved.
    clicks : int
        Test clicks that are looked up, spread evenly over the test split.
    """

    run: str
    k: tuple[PositiveInt, ...] = (10, 50, 100)
    clicks: PositiveInt = 5000


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    model, data, _ = load_run(settings.run)
    if not isinstance(model, Towers):
        raise UserError(
            f"{settings.run} is not a model of two towers; train one with downstream.train --model.name dssm or dqm"
        )
    test = data.rows["test"]
    clicked = test[data.click[test] == 1]
    rows = clicked[np.unique(np.linspace(0, len(clicked) - 1, settings.clicks).astype(int))]
    found = retrieve(model, data, rows, settings.k)
    figures = {"recall": found, "clicks": len(rows), "items": len(data.item_code), "made_by": made_by()}
    write_json(Path(settings.run) / "retrieval.json", figures)
    printed = Table(f"{len(rows):,} test clicks, {len(data.item_code):,} items", *(f"recall@{k}" for k in settings.k))
    for name, values in found.items():
        printed.add_row(name, *(f"{values[k]:.4f}" for k in settings.k))
    Console().print(printed)


if __name__ == "__main__":
    run_command(main)
