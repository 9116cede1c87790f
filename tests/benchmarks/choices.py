"""Choices of ``optim`` compared on the test split, each at the learning rate that is best on validation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import Ratio
from rich.console import Console
from seeded import cells, difference, shown

from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ModelSettings, TrainingSettings

SHOP = World(items=2000, users=2000, requests=15_000, image_size=16)
METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}


def best_on_validation(data: CTRData, candidates: Sequence[OptimSettings], model: str, seeds: int) -> dict[str, Any]:
    """The candidate with the highest AUC on validation: its learning rate, epochs, and each seed's test scores.

    With it come the mean seconds of the processor that a training took, its scoring included.
    """
    found, begun = [], time.process_time()
    for optim in candidates:
        training = TrainingSettings(data.settings, ModelSettings(model), optim=optim)
        results = [fit(data, None, training, seed) for seed in range(seeds)]
        valid = float(np.mean([one.metrics["valid"]["all"]["auc"] for one in results]))
        epochs = float(np.mean([one.best_epoch + 1 for one in results]))
        scores = [one.test_scores for one in results]
        found.append({"rate": optim.lr, "valid_auc": valid, "epochs": epochs, "scores": scores})
    taken = (time.process_time() - begun) / (len(candidates) * seeds)
    return {"seconds": taken, **max(found, key=lambda one: one["valid_auc"])}


def compared(
    dataset: str, data: CTRData, choices: Mapping[str, Sequence[OptimSettings]], base: str, model: str, seeds: int
) -> Iterator[dict[str, Any]]:
    """A row for each choice, with its differences from the choice ``base``."""
    found = {name: best_on_validation(data, candidates, model, seeds) for name, candidates in choices.items()}
    metrics = {name: cells(data, own.pop("scores")) for name, own in found.items()}
    for name, own in found.items():
        row = {"dataset": dataset, "choice": name, **own, "trained": len(data.rows["train"])}
        for metric in METRICS:
            row[metric] = float(metrics[name][metric].values.mean())
            if name != base:
                gain = difference(metrics[name], metrics[base], metric)
                row |= {f"{metric}_gain": [gain.mean, gain.low, gain.high], f"{metric}_shown": shown(gain)}
        yield row


def measured(settings: Any, choices: Mapping[str, Sequence[OptimSettings]], base: str) -> list[dict[str, Any]]:
    """The rows of all datasets of a program's settings, printed as they come; without datasets of a small world."""
    say, rows = Console(highlight=False, soft_wrap=True).print, []
    with tempfile.TemporaryDirectory() as folder:
        datasets = settings.datasets
        if not datasets:
            datasets = {"world": str(make_world(SHOP, Path(folder) / "world") / "dataset")}
        for name, place in datasets.items():
            data = load_ctr_data(place, DataSettings(history=50, train_from=settings.train_from))
            for row in compared(name, data, choices, base, settings.model, settings.seeds):
                rows.append(row)
                say(str(row))
    return rows


def table(rows: Sequence[dict[str, Any]], what: str) -> list[str]:
    """The rows as lines of Markdown; ``what`` is chosen."""
    metrics = "AUC | difference | GAUC, difference | log loss | difference"
    lines = [
        f"| dataset | impressions | {what} | rate | epochs | {metrics} | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        gains = [one.get(f"{metric}_shown", "") for metric in METRICS]
        lines.append(
            f"| {one['dataset']} | {one['trained']:,} | {one['choice']} | {one['rate']:g} | {one['epochs']:.1f} | "
            f"{one['auc']:.4f} | {gains[0]} | {gains[1]} | {one['log_loss']:.4f} | {gains[2]} | {one['seconds']:.0f} |"
        )
    return lines


def ratios(rows: Sequence[dict[str, Any]], base: str) -> list[Ratio]:
    """AUC and log loss of each choice over those of the choice ``base``."""
    bases = {row["dataset"]: row for row in rows if row["choice"] == base}
    return [
        Ratio(
            f"{METRICS[metric]} of {row['choice']}, {row['dataset']}", row[metric], bases[row["dataset"]][metric], base
        )
        for row in rows
        if row["choice"] != base
        for metric in ("auc", "log_loss")
    ]
