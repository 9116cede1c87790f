"""Train one CTR model: with an embedding table of the items, or from IDs alone where none is given.

    python -m downstream.train --config configs/downstream/dicm.yaml --dataset DATASET --table TABLE --out RUN

Also runs under ``accelerate launch``. RUN holds summary.json, test_scores.npy (click probability of each impression
of the test split, in the order of the log), model.safetensors and vocabulary.parquet (whose embedding is whose). The
same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import save_file

from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import resumable_folder, write_json
from data_tools.common.provenance import commit, machine, versions
from downstream.ams.joining import read_features
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.models import ModelSettings
from downstream.training.checkpoints import Checkpoints
from downstream.training.fit import Result, TrainingSettings, fit
from downstream.training.warm_up import PARTS, WarmUp, keep_vocabulary


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """One CTR training.

    Attributes
    ----------
    dataset : dataset folder
    out : run folder to make; must not exist
    table : embedding table or feature store; without one the model sees IDs only
    seed : of the weights and the order of the impressions
    warm_up : earlier run to take weights from before the training
    warm_up_part : "partial" takes all but the ID embeddings, "full" these too, "none" nothing
    checkpoint_every : steps between two checkpoints
    """

    dataset: str = ""
    out: str = ""
    table: str | None = None
    seed: int = 0
    warm_up: str | None = None
    warm_up_part: str = "partial"
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        if not self.dataset or not self.out:
            raise UserError("--dataset DATASET and --out RUN are needed")
        if self.warm_up_part not in PARTS or self.checkpoint_every < 1:
            raise UserError(
                f"warm_up_part {self.warm_up_part!r} and checkpoint_every {self.checkpoint_every}: "
                f"one of {PARTS} and a number from 1 are expected"
            )
        own, default = self.model, ModelSettings()
        if own.name != "din" and (own.attention, own.softmax) != (default.attention, default.softmax):
            raise UserError(f"model.attention and model.softmax are of model 'din'; model.name is {own.name!r}")


def show(result: Result, console: Console) -> None:
    """Print the metrics of the test split."""
    printed = Table("test split", "AUC", "GAUC", "log loss")
    for name, metrics in result.metrics["test"].items():
        printed.add_row(name, *("-" if value is None else f"{value:.4f}" for value in metrics.values()))
    console.print(printed)


@contextlib.contextmanager
def run_folder(settings: Settings, made_with: Any, state: PartialState) -> Iterator[Path]:
    """The folder that becomes the run: the first process makes it or finds it again, all see it."""
    if Path(settings.out).exists():
        raise UserError(f"{settings.out} exists already; name another folder or remove this one first")
    state.wait_for_everyone()
    with contextlib.ExitStack() as held:
        folder = None
        if state.is_main_process:
            folder = str(held.enter_context(resumable_folder(settings.out, made_with)))
        (folder,) = broadcast_object_list([folder])
        yield Path(folder)


def train(settings: Settings, progress: Progress, data: CTRData | None = None) -> Result:
    """Train a model and make its run folder; the data are read unless given. Every process gets the result."""
    state = PartialState(cpu=not torch.cuda.is_available())
    data = data or load_ctr_data(settings.dataset, settings.data)
    table = read_features(settings.table) if settings.table else None
    start = WarmUp(Path(settings.warm_up), settings.warm_up_part, data) if settings.warm_up else None
    fingerprint = data.dataset.info["fingerprint"]
    made_with = [asdict(settings), fingerprint, table.info if table else None, state.num_processes]
    with run_folder(settings, made_with, state) as folder:
        checkpoints = Checkpoints(folder, settings.checkpoint_every)
        result = fit(data, table, settings, settings.seed, progress, checkpoints, start)
        if not state.is_main_process:
            return result
        np.save(folder / "test_scores.npy", result.test_scores)
        save_file(result.state, folder / "model.safetensors")
        keep_vocabulary(data, folder)
        summary = {
            "metrics": result.metrics,
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "items_without_image": result.items_without_image,
            "form": result.report,
            "seconds": result.seconds,
            "settings": asdict(settings),
            "dataset_fingerprint": fingerprint,
            "table": table.info if table else None,
            "commit": commit(),
            "versions": versions(),
            "machine": machine(),
        }
        write_json(folder / "summary.json", summary)
        for checkpoint in folder.glob("training-*.safetensors"):
            checkpoint.unlink()
    return result


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    state = PartialState(cpu=not torch.cuda.is_available())
    with progress_bar(state.is_main_process) as progress:
        result = train(settings, progress)
    if not state.is_main_process:
        return
    console = Console()
    show(result, console)
    if result.items_without_image:
        console.print(f"{result.items_without_image} items have no vector in the table: a learned one stands for them")
    console.print(f"{settings.out}: {result.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main)
