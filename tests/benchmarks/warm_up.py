"""DICM's warm-up on two consecutive time ranges: train on the first half of the log, continue on the second.

    python tests/benchmarks/warm_up.py --dataset DATASET --table TABLE --out results/dicm/warm_up.json

The second model starts with nothing, with all but the ID embeddings (partial) or with everything (full) of the first,
as in arXiv 1711.06505 (GAUC .6260, .6283, .6230 there). Every training is a run of downstream.train that is kept in
RUNS, so that a stopped program continues. Prints GAUC and AUC by seed and the paired differences from "none".
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from report import finish
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings
from downstream.statistics.bootstrap import BootstrapSettings, bootstrap_metrics
from downstream.statistics.intervals import Cells, difference_interval
from downstream.statistics.metrics import auc, gauc

PARTS = ("none", "partial", "full")


@dataclass(frozen=True)
class Settings:
    """The experiment.

    Attributes
    ----------
    dataset, table : of the CTR models
    runs : folder of the trainings
    history, batch_size : of the CTR models
    seeds : of the CTR trainings
    boundary : where the first time range ends, as a share of the training split
    resamples : of the bootstrap over users
    out : file of the figures; none by default
    """

    dataset: str = ""
    table: str = ""
    runs: str = "runs/warm-up"
    history: int = 30
    batch_size: int = 256
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    boundary: float = 0.5
    resamples: int = 1000
    out: str | None = None


def trained(run: Path, settings: Settings, seed: int, *flags: str) -> Path:
    """A finished run of downstream.train, trained where it is missing."""
    if not (run / "summary.json").exists():
        common = {"dataset": settings.dataset, "table": settings.table, "out": run, "seed": seed}
        common |= {"data.history": settings.history, "optim.batch_size": settings.batch_size}
        given = [part for key, value in common.items() for part in (f"--{key}", str(value))]
        done = subprocess.run([sys.executable, "-m", "downstream.train", *given, *flags])
        if done.returncode:
            raise UserError(f"the training of {run} ended with exit status {done.returncode}; see above")
    return run


def scores(settings: Settings) -> dict[str, list[np.ndarray]]:
    """What the second model starts with -> its scores of the test split, one array a seed."""
    found: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for seed in settings.seeds:
        runs = Path(settings.runs)
        first = trained(runs / f"first-{seed}", settings, seed, "--data.train_until", str(settings.boundary))
        for part in PARTS:
            second = ["--data.train_from", str(settings.boundary)]
            second += ["--warm_up", str(first), "--warm_up_part", part] if part != "none" else []
            run = trained(runs / f"{part}-{seed}", settings, seed, *second)
            found[part].append(np.load(run / "test_scores.npy"))
    return found


def measured(found: dict[str, list[np.ndarray]], data: CTRData, settings: Settings) -> dict[str, dict]:
    """part -> GAUC and AUC of each seed, and the interval of the GAUC difference from "none"."""
    rows = data.rows["test"]
    click, user = data.click[rows], data.user[rows]
    people, user = np.unique(user, return_inverse=True)
    bootstrap = BootstrapSettings(resamples=settings.resamples)
    seeds, cells = np.arange(len(settings.seeds)), {}
    for part, own in found.items():
        values = np.array([gauc(click, scores, user) for scores in own])
        draws = bootstrap_metrics(click, np.stack(own), user, len(people), bootstrap)["gauc"]
        cells[part] = Cells(values, draws, np.zeros_like(seeds), seeds, len(people))
    return {
        part: {
            "gauc": cells[part].values.tolist(),
            "auc": [auc(click, own) for own in found[part]],
            "over_none": asdict(difference_interval(cells[part], cells["none"], bootstrap)),
        }
        for part in PARTS
    }


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if not settings.dataset or not settings.table:
        raise UserError("--dataset DATASET and --table TABLE are needed")
    found = scores(settings)
    parts = measured(found, load_ctr_data(settings.dataset, DataSettings(history=settings.history)), settings)
    shown = Table("warm-up", "GAUC", "AUC", "GAUC over none (95 % interval)")
    for part, one in parts.items():
        difference = one["over_none"]
        interval = f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
        shown.add_row(part, f"{np.mean(one['gauc']):.4f}", f"{np.mean(one['auc']):.4f}", interval)
    Console().print(shown)
    finish(settings, {"dataset": read_json(Path(settings.dataset) / "dataset.json").get("source"), "parts": parts})


if __name__ == "__main__":
    run_command(main)
