"""Batch sizes of CTR training against the default: AUC and log loss, and the seconds of a training.

    python tests/benchmarks/batch_sizes.py --datasets '{world: WORLD, movielens: ML, hm: HM}' \\
        --out results/benchmarks/batch_sizes.json

DIN from IDs alone on each dataset, with every batch size and learning rate, five seeds. Learning rate and epoch are
chosen on validation, by AUC; the differences from the default are those of the test split, with 95 % intervals over
seeds and users. Without datasets it makes a small simulated world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from choices import measured, ratios, table
from report import finish, heading

from data_tools.common.cli import parse_settings, run_command
from downstream.settings import OptimSettings

DEFAULT = OptimSettings().batch_size


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
    choices = {
        str(size): [
            OptimSettings(lr=rate, batch_size=size, epochs=settings.epochs, patience=1) for rate in settings.rates
        ]
        for size in sorted({DEFAULT, *settings.sizes})
    }
    rows = measured(settings, choices, str(DEFAULT))
    if settings.out:
        Path(settings.out).with_suffix(".md").write_text(page(rows, settings))
    finish(settings, {"rows": rows}, ratios(rows, str(DEFAULT)))


if __name__ == "__main__":
    run_command(main)
