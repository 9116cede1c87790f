"""What sharing brings where data are few: several tasks, or several scenes, over one look-up table.

    python -m downstream.transfer --config configs/downstream/tasks.yaml --out results/ranking/tasks
    python -m downstream.transfer --config configs/downstream/scenes.yaml --out results/ranking/scenes

With ``kind: tasks``, models of conversions against separate ones: one of the conversions over all impressions, one of
the purchases over the clicks, and its product with one of the clicks. With ``kind: scenes``, models of several scenes
against a model a scene ("separate") and one model that is not told the scene ("merged"). OUT gets report.md and
figures.json. Every training with its seed is kept in the cache folder, so that a stopped command goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import whole_file, write_json
from data_tools.common.pages import mean_sd
from data_tools.common.provenance import made_by, this_command
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.report.page import render
from downstream.report.words import METRIC_NAMES, signed
from downstream.statistics.intervals import METRICS, BootstrapSettings, Cells, bootstrap_metrics, difference_interval
from downstream.statistics.metrics import all_metrics
from downstream.studies.sharing import KINDS, Scores, Train
from downstream.training.fit import TrainingSettings, fit


@dataclass(frozen=True)
class Settings:
    """A comparison of ways to share.

    Attributes
    ----------
    out : folder of the report
    dataset : dataset folder, with conversions or scenes
    kind : "tasks" or "scenes"
    models : that share, each compared with the separate ones
    table : embedding table; without one the models see IDs only
    seeds : of the trainings
    training : settings of all trainings; model.name is that of the contestant
    bootstrap : settings of the intervals
    cache : folder of the trainings
    """

    out: str = ""
    dataset: str = ""
    kind: str = "tasks"
    models: list[str] = field(default_factory=lambda: ["esmm", "esmm_transfer"])
    table: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    training: TrainingSettings = field(default_factory=TrainingSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    cache: str = "runs/transfer"

    def __post_init__(self) -> None:
        if not self.out or not self.dataset:
            raise UserError("'dataset' in the configuration and --out are needed")
        if self.kind not in KINDS:
            raise UserError(f"kind is {self.kind!r}; one of {sorted(KINDS)} is expected")


def contestants(data: CTRData, settings: Settings, train: Train) -> Iterator[tuple[str, Scores]]:
    """name -> task -> probabilities of the test split, of one seed: the separate models first."""
    yield from KINDS[settings.kind][1](data, train)
    for model in settings.models:
        yield model, train(model, data)


def _kept(folder: Path, make: Callable[[], Scores]) -> Scores:
    """Scores kept in a file from before, or made and kept."""
    path = folder.with_suffix(".npz")
    if not path.exists():
        scores = make()
        with whole_file(path) as scratch, open(scratch, "wb") as file:
            np.savez(file, **scores)
    with np.load(path) as kept:
        return dict(kept)


def _trainer(settings: Settings, table: EmbeddingTable | None, seed: int, progress: Progress) -> Train:
    def train(model: str, data: CTRData) -> Scores:
        training = replace(settings.training, model=replace(settings.training.model, name=model))
        decisive = [data.dataset.info["fingerprint"], asdict(training), settings.table, seed, sorted(data.sizes)]
        digest = hashlib.blake2b(json.dumps(decisive).encode(), digest_size=12)
        for array in (data.click, *data.rows.values()):
            digest.update(np.ascontiguousarray(array).data)
        return _kept(
            Path(settings.cache) / digest.hexdigest(), lambda: fit(data, table, training, seed, progress).task_scores
        )

    return train


def _cells(measured: list[tuple[float, np.ndarray, int]], users: int) -> Cells:
    """The trainings of one contestant, each with its value, bootstrap draws and seed, as cells without encoders."""
    values, draws, seeds = zip(*measured, strict=True)
    drawn = np.stack(draws)
    kept = drawn[:, np.isfinite(drawn).all(axis=0)]
    return Cells(np.array(values), kept, np.zeros(len(seeds), dtype=int), np.array(seeds), users)


def measure(data: CTRData, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Metrics of every contestant, part and seed, and the differences with their intervals.

    Returns
    -------
    dict with
        parts : name -> impressions and positives of the test split
        cells : contestant, part, seed, auc, gauc, log_loss
        differences : a, b, part, metric and an interval; the mean is a - b, b the contestants that do not share
    """
    table = read_table(settings.table) if settings.table else None
    parts = KINDS[settings.kind][0](data)
    users, user = np.unique(data.user[data.rows["test"]], return_inverse=True)
    cells, draws = [], {}
    task = progress.add_task("seeds", total=len(settings.seeds))
    for seed in settings.seeds:
        for name, scores in contestants(data, settings, _trainer(settings, table, seed, progress)):
            for part, one in parts.items():
                values = one.label, scores[one.task][one.place], user[one.place]
                drawn = bootstrap_metrics(*values, len(users), settings.bootstrap)
                metrics = {metric: all_metrics(*values)[metric] for metric in METRICS}
                cells.append({"contestant": name, "part": part, "seed": seed, **metrics})
                for metric in METRICS:
                    draws.setdefault((name, part, metric), []).append((metrics[metric], drawn[metric], seed))
        progress.advance(task)
    names = list(dict.fromkeys(cell["contestant"] for cell in cells))
    alone = [name for name in names if name not in settings.models]
    differences = []
    for b in alone:
        for a in names[names.index(b) + 1 :]:
            for part in parts:
                for metric in METRICS:
                    ours, theirs = draws[a, part, metric], draws[b, part, metric]
                    if any(value is None for value, _, _ in ours + theirs):
                        continue
                    interval = difference_interval(
                        _cells(ours, len(users)), _cells(theirs, len(users)), settings.bootstrap
                    )
                    differences.append({"a": a, "b": b, "part": part, "metric": metric, **asdict(interval)})
    sizes = {name: {"impressions": len(part.place), "positives": int(part.label.sum())} for name, part in parts.items()}
    return {"parts": sizes, "cells": cells, "differences": differences}


def tables(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What the template shows of each part: a line a contestant, its metrics and its differences from those alone."""
    shown = []
    for part, size in figures["parts"].items():
        own = [cell for cell in figures["cells"] if cell["part"] == part]
        against = list(dict.fromkeys(row["b"] for row in figures["differences"]))
        lines = []
        for name in dict.fromkeys(cell["contestant"] for cell in own):
            line = [name]
            for metric in METRICS:
                values = [cell[metric] for cell in own if cell["contestant"] == name]
                line.append(mean_sd(values))
            for b in against:
                for metric in ("gauc", "auc", "log_loss"):
                    wanted = {"a": name, "b": b, "part": part, "metric": metric}
                    rows = [r for r in figures["differences"] if all(r[key] == value for key, value in wanted.items())]
                    star = " *" if rows and (rows[0]["low"] > 0 or rows[0]["high"] < 0) else ""
                    line.append(
                        f"{signed(rows[0]['mean'])} ({signed(rows[0]['low'])} to {signed(rows[0]['high'])}){star}"
                        if rows
                        else "–"
                    )
            lines.append(line)
        heads = [METRIC_NAMES[metric] for metric in METRICS]
        heads += [f"{METRIC_NAMES[metric]} − {b}" for b in against for metric in ("gauc", "auc", "log_loss")]
        shown.append({"name": part, **size, "heads": heads, "lines": lines})
    return shown


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    data = load_ctr_data(settings.dataset, settings.training.data)
    with progress_bar() as progress:
        figures = measure(data, settings, progress)
    command = this_command(__spec__.name)
    figures["settings"] = asdict(settings)
    figures["made_by"] = made_by(command)
    context = {
        "kind": settings.kind,
        "parts": tables(figures),
        "figures": figures,
        "dataset": data.dataset.info,
        "table": settings.table or "none, IDs only",
    }
    out = Path(settings.out)
    with whole_file(out / "report.md") as scratch:
        scratch.write_text(render("transfer.md.j2", context), encoding="utf-8")
    write_json(out / "figures.json", figures)
    Console().print(f"{out}/report.md, figures.json")


if __name__ == "__main__":
    run_command(main)
