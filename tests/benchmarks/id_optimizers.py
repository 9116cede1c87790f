"""Dense Adam against optimizers that leave the rows of a batch's absent IDs alone: AUC and log loss.

    python tests/benchmarks/id_optimizers.py --datasets '{world: WORLD, movielens: ML, hm: HM}' \\
        --out results/benchmarks/id_optimizers.json

Embedding & MLP from IDs alone on each dataset, with every optimizer and learning rate, five seeds. Learning rate and
epoch are chosen on validation, by AUC; the differences from dense Adam are those of the test split, with 95 %
intervals over seeds and users. Without datasets it makes a small simulated world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from choices import measured, ratios, table
from report import finish, heading

from data_tools.common.cli import parse_settings, run_command
from downstream.settings import OptimSettings

DENSE = "adam"


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


def page(rows: list[dict[str, Any]], settings: Settings) -> str:
    """The figures as Markdown."""
    said = (
        f"{settings.model}, IDs alone, batches of {settings.batch_size}, at most {settings.epochs} epochs, "
        f"{settings.seeds} seeds; learning rate (of {', '.join(map(str, settings.rates))}) and epoch "
        f"chosen on validation; the training split from {settings.train_from:.0%} of it on. Differences from dense "
        "Adam on the test split, in thousandths, with 95 % intervals over seeds and users; seconds are the "
        "processor's, of a training with its scoring."
    )
    return "\n".join([*heading("Optimizers of the ID tables"), said, "", *table(rows, "optimizer"), ""])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    shared = {"epochs": settings.epochs, "batch_size": settings.batch_size, "patience": 1}
    choices = {
        one: [OptimSettings(lr=rate, id_optimizer=one, **shared) for rate in settings.rates]
        for one in settings.optimizers
    }
    rows = measured(settings, choices, DENSE)
    if settings.out:
        Path(settings.out).with_suffix(".md").write_text(page(rows, settings))
    finish(settings, {"rows": rows}, ratios(rows, DENSE))


if __name__ == "__main__":
    run_command(main)
