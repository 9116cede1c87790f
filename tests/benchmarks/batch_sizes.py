"""Batch sizes of CTR training against the default: AUC and log loss, and the seconds of a training.

    python tests/benchmarks/batch_sizes.py --datasets '{world: WORLD, movielens: ML, hm: HM}' \\
        --out results/benchmarks/batch_sizes.json

DIN from IDs alone on each dataset, with every batch size and learning rate, five seeds. Learning rate and epoch are
chosen on validation, by AUC; the differences from the default are those of the test split, with 95 % intervals over
seeds and users. Without datasets it makes a small simulated world.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from choices import compared, ratios, table
from report import finish, heading
from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings

DEFAULT = OptimSettings().batch_size
SHOP = World(items=2000, users=2000, requests=15_000, image_size=16)


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    datasets : name -> dataset folder
    sizes : impressions a step, besides the default
    rates : learning rates that are tried
    epochs : most passes over the training split
    train_from : where the part of the training split begins that is used
    seeds : of the trainings
    model : CTR model
    out : file of the figures; none by default
    """

    datasets: dict[str, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [64, 1024, 4096])
    rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2])
    epochs: int = 2
    train_from: float = 0.0
    seeds: int = 5
    model: str = "din"
    out: str | None = None


def page(rows: list[dict[str, Any]], settings: Settings) -> str:
    """The figures as Markdown."""
    said = (
        f"{settings.model}, IDs alone, at most {settings.epochs} epochs, {settings.seeds} seeds; learning rate (of "
        f"{', '.join(map(str, settings.rates))}) and epoch chosen on validation; the training split from "
        f"{settings.train_from:.0%} of it on. Differences from batches of {DEFAULT} on the test split, in thousandths, "
        "with 95 % intervals over seeds and users; seconds are the processor's, of a training with its scoring."
    )
    return "\n".join([*heading("Batch sizes of CTR training"), said, "", *table(rows, "batch"), ""])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    say, rows = Console(highlight=False, soft_wrap=True).print, []
    choices = {
        str(size): [
            OptimSettings(lr=rate, batch_size=size, epochs=settings.epochs, patience=1) for rate in settings.rates
        ]
        for size in sorted({DEFAULT, *settings.sizes})
    }
    with tempfile.TemporaryDirectory() as folder:
        datasets = settings.datasets
        if not datasets:
            datasets = {"world": str(make_world(SHOP, Path(folder) / "world") / "dataset")}
        for name, place in datasets.items():
            data = load_ctr_data(place, DataSettings(history=50, train_from=settings.train_from))
            for row in compared(name, data, choices, str(DEFAULT), settings.model, settings.seeds):
                rows.append(row)
                say(str(row))
    if settings.out:
        Path(settings.out).with_suffix(".md").write_text(page(rows, settings))
    finish(settings, {"rows": rows}, ratios(rows, str(DEFAULT)))


if __name__ == "__main__":
    run_command(main)
