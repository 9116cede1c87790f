"""Train one CTR model: with an embedding table of the items, or from IDs alone where none is given.

    python -m downstream.train --config configs/downstream/dicm.yaml --dataset DATASET --table TABLE --out RUN

Also runs under ``accelerate launch``. RUN gets summary.json, test_scores.npy (click probability of each impression of
the test split, in the order of the log), model.safetensors and vocabulary.parquet (the id of each embedding). The same
command continues where it was stopped.
"""

from __future__ import annotations

import torch
from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.launch import as_launched
from downstream.training.fit import Result
from downstream.training.run import RunSettings as Settings
from downstream.training.run import train


def show(result: Result, console: Console) -> None:
    """Print the metrics of the test split."""
    printed = Table("test split", "AUC", "GAUC", "log loss")
    for name, metrics in result.metrics["test"].items():
        printed.add_row(name, *("-" if value is None else f"{value:.4f}" for value in metrics.values()))
    console.print(printed)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    with as_launched():
        state = PartialState(cpu=not torch.cuda.is_available())
    with progress_bar(state.is_main_process) as progress:
        result = train(settings, progress)
    if not state.is_main_process:
        return
    console = Console()
    show(result, console)
    if result.items_without_image:
        console.print(f"{result.items_without_image} items have no vector in the table; a learned one replaces it")
    console.print(f"{settings.out}: {result.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main)
