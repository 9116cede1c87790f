"""Train one CTR model: with an embedding table of the items, or from IDs alone where none is given.

    python -m downstream.train --config configs/downstream/dicm.yaml --dataset DATASET --table TABLE --out RUN

Also runs under ``accelerate launch``. RUN holds summary.json, test_scores.npy (click probability of each impression
of the test split, in the order of the log) and model.safetensors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from data_tools.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.files import whole_folder, write_json
from data_tools.provenance import commit, machine, versions
from downstream.ams.joining import read_features
from downstream.data import load_ctr_data
from downstream.fitting import Result, TrainingSettings, fit
from downstream.models import ModelSettings


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """One CTR training.

    Attributes
    ----------
    dataset : dataset folder
    out : run folder to make; must not exist
    table : embedding table or feature store; without one the model sees IDs only
    seed : of the weights and the order of the impressions
    """

    dataset: str = ""
    out: str = ""
    table: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.dataset or not self.out:
            raise UserError("--dataset DATASET and --out RUN are needed")
        own, default = self.model, ModelSettings()
        if own.name != "din" and (own.attention, own.softmax) != (default.attention, default.softmax):
            raise UserError(f"model.attention and model.softmax are of model 'din'; model.name is {own.name!r}")


def show(result: Result, console: Console) -> None:
    """Print the metrics of the test split."""
    printed = Table("test split", "AUC", "GAUC", "log loss")
    for name, metrics in result.metrics["test"].items():
        printed.add_row(name, *("-" if value is None else f"{value:.4f}" for value in metrics.values()))
    console.print(printed)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    data = load_ctr_data(settings.dataset, settings.data)
    table = read_features(settings.table) if settings.table else None
    state = PartialState()
    with progress_bar(state.is_main_process) as progress:
        result = fit(data, table, settings, settings.seed, progress)
    if not state.is_main_process:
        return
    with whole_folder(settings.out) as folder:
        np.save(folder / "test_scores.npy", result.test_scores)
        save_file(result.state, folder / "model.safetensors")
        summary = {
            "metrics": result.metrics,
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "items_without_image": result.items_without_image,
            "form": result.report,
            "seconds": result.seconds,
            "settings": asdict(settings),
            "dataset_fingerprint": data.dataset.info["fingerprint"],
            "table": table.info if table else None,
            "commit": commit(),
            "versions": versions(),
            "machine": machine(),
        }
        write_json(folder / "summary.json", summary)
    console = Console()
    show(result, console)
    if result.items_without_image:
        console.print(f"{result.items_without_image} items have no vector in the table: a learned one stands for them")
    console.print(f"{settings.out}: {result.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main)
