"""Dense Adam against optimizers that leave the rows of a batch's absent IDs alone: AUC and log loss.

    python tests/benchmarks/id_optimizers.py --datasets '{world: WORLD, movielens: ML, hm: HM}' \\
        --out results/benchmarks/id_optimizers.json

Embedding & MLP from IDs alone on each dataset, with every optimizer and learning rate, five seeds. Learning rate and
epoch are chosen on validation, by AUC; the differences from dense Adam are those of the test split, with 95 %
intervals over seeds and users. Without datasets it makes a small simulated world.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from report import Ratio, finish, heading
from rich.console import Console
from seeded import cells, difference, shown

from data_tools.common.cli import parse_settings, run_command
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ModelSettings, TrainingSettings

DENSE = "adam"
SHOP = World(items=2000, users=2000, requests=15_000, image_size=16)


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    datasets : name -> dataset folder
    optimizers : of the ID tables
    rates : learning rates that are tried
    epochs : most passes over the training split
    batch_size : impressions a step
    train_from : where the part of the training split begins that is used
    seeds : of the trainings
    model : CTR model
    out : file of the figures; none by default
    """

    datasets: dict[str, str] = field(default_factory=dict)
    optimizers: list[str] = field(default_factory=lambda: ["adam", "sparse_adam"])
    rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3])
    epochs: int = 2
    batch_size: int = 256
    train_from: float = 0.0
    seeds: int = 5
    model: str = "dicm"
    out: str | None = None


def trainings(data: CTRData, optimizer: str, settings: Settings) -> dict[str, Any]:
    """The test scores of each seed at the learning rate that is best on validation, and the seconds of a training."""
    found = {}
    begun = time.process_time()
    for rate in settings.rates:
        optim = OptimSettings(
            lr=rate, epochs=settings.epochs, batch_size=settings.batch_size, id_optimizer=optimizer, patience=1
        )
        training = TrainingSettings(data.settings, ModelSettings(settings.model), optim=optim)
        results = [fit(data, None, training, seed) for seed in range(settings.seeds)]
        valid = float(np.mean([one.metrics["valid"]["all"]["auc"] for one in results]))
        epochs = float(np.mean([one.best_epoch + 1 for one in results]))
        found[rate] = {"valid_auc": valid, "epochs": epochs, "scores": [one.test_scores for one in results]}
    taken = (time.process_time() - begun) / (len(settings.rates) * settings.seeds)
    rate = max(found, key=lambda one: found[one]["valid_auc"])
    return {"rate": rate, "seconds": taken, **found[rate]}


def compared(name: str, folder: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each optimizer on a dataset."""
    data = load_ctr_data(folder, DataSettings(history=50, train_from=settings.train_from))
    found = {one: trainings(data, one, settings) for one in settings.optimizers}
    metrics = {one: cells(data, own.pop("scores")) for one, own in found.items()}
    for one, own in found.items():
        row = {"dataset": name, "optimizer": one, **own, "trained": len(data.rows["train"])}
        for metric in ("auc", "gauc", "log_loss"):
            row[metric] = float(metrics[one][metric].values.mean())
            if one != DENSE:
                gain = difference(metrics[one], metrics[DENSE], metric)
                row |= {f"{metric}_gain": [gain.mean, gain.low, gain.high], f"{metric}_shown": shown(gain)}
        yield row


def page(rows: list[dict[str, Any]], settings: Settings) -> str:
    """The figures as Markdown."""
    metrics = "AUC | difference | GAUC, difference | log loss | difference"
    columns = f"dataset | impressions | optimizer | rate | epochs | {metrics}"
    lines = heading("Optimizers of the ID tables")
    lines += [
        f"{settings.model}, IDs alone, batches of {settings.batch_size}, at most {settings.epochs} epochs, "
        f"{settings.seeds} seeds; learning rate (of {', '.join(map(str, settings.rates))}) and epoch "
        f"chosen on validation; the training split from {settings.train_from:.0%} of it on. Differences from dense "
        "Adam on the test split, in thousandths, with 95 % intervals over seeds and users; seconds are the "
        "processor's, of a training with its scoring.",
        "",
        f"| {columns} | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        gains = [one.get(f"{metric}_shown", "") for metric in ("auc", "gauc", "log_loss")]
        lines.append(
            f"| {one['dataset']} | {one['trained']:,} | {one['optimizer']} | {one['rate']:g} | {one['epochs']:.1f} | "
            f"{one['auc']:.4f} | {gains[0]} | {gains[1]} | {one['log_loss']:.4f} | {gains[2]} | {one['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    say, rows = Console(highlight=False, soft_wrap=True).print, []
    with tempfile.TemporaryDirectory() as folder:
        datasets = settings.datasets
        if not datasets:
            datasets = {"world": str(make_world(SHOP, Path(folder) / "world") / "dataset")}
        for name, place in datasets.items():
            for row in compared(name, place, settings):
                rows.append(row)
                say(str(row))
    if settings.out:
        Path(settings.out).with_suffix(".md").write_text(page(rows, settings))
    dense = {row["dataset"]: row for row in rows if row["optimizer"] == DENSE}
    ratios = [
        Ratio(f"{what} of {row['optimizer']}, {row['dataset']}", row[metric], dense[row["dataset"]][metric], DENSE)
        for row in rows
        if row["optimizer"] != DENSE
        for what, metric in (("AUC", "auc"), ("log loss", "log_loss"))
    ]
    finish(settings, {"rows": rows}, ratios)


if __name__ == "__main__":
    run_command(main)
