"""A CTR training with its run folder, which continues where it was stopped.

``summary.json``
    settings, metrics, the digest of the vocabulary, and what made the run
``test_scores.npy``
    float32, click probability of each impression of the test split, in the order of the log
``model.safetensors``
    the weights of the best epoch
``vocabulary.parquet``
    the id of each code
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from jsonargparse.typing import PositiveInt
from rich.progress import Progress

from data_tools.common.checks import Seed
from data_tools.common.errors import UserError
from data_tools.common.files import refuse_existing, refuse_url, resumable_folder, write_json
from data_tools.common.launch import as_launched
from data_tools.common.provenance import commit, machine, versions
from data_tools.common.tensors import write_tensors
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.images.reading import read_features
from downstream.training.checkpoints import Checkpoints
from downstream.training.fit import Result, fit
from downstream.training.settings import TrainingSettings
from downstream.training.warm_up import WarmUp, keep_vocabulary


@dataclass(frozen=True, kw_only=True)
class RunSettings(TrainingSettings):
    """One CTR training.

    Attributes
    ----------
    dataset : str
        Dataset folder, or its URL.
    out : str
        Run folder to make; must not exist.
    table : str
        Embedding table or feature store, or its URL; without one the model sees IDs only, and image has no effect.
    seed : int
        Seed of the weights and of the order of the impressions.
    warm_up : str
        Earlier run whose weights the training starts from.
    warm_up_part : str
        partial takes all of its weights but the ID embeddings, full these too.
    checkpoint_every : int
        Steps between two checkpoints.
    """

    dataset: str
    out: str
    table: str | None = None
    seed: Seed = 0
    warm_up: str | None = None
    warm_up_part: Literal["partial", "full"] = "partial"
    checkpoint_every: PositiveInt = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.history_by == "similarity" and not self.table:
            raise UserError(
                "--data.history_by is 'similarity', which compares vectors, but there is no --table TABLE that has them"
            )
        if self.warm_up_part != "partial" and not self.warm_up:
            raise UserError(f"--warm_up_part is {self.warm_up_part!r}, but there is no --warm_up RUN to take it from")


@contextlib.contextmanager
def _run_folder(settings: RunSettings, made_with: Any, state: PartialState) -> Iterator[Path]:
    """The folder that becomes the run; the first process makes it or finds it again, and all of them get it."""
    refuse_url(settings.out, "a run")
    refuse_existing(settings.out)
    state.wait_for_everyone()
    with contextlib.ExitStack() as held:
        folder = None
        if state.is_main_process:
            folder = str(held.enter_context(resumable_folder(settings.out, made_with)))
        (folder,) = broadcast_object_list([folder])
        yield Path(folder)


def _summary(
    settings: RunSettings, result: Result, fingerprint: str, *, vocabulary: str, table: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        **result.record(),
        "settings": asdict(settings),
        "dataset_fingerprint": fingerprint,
        "vocabulary": vocabulary,
        "table": table,
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
    }


def train(settings: RunSettings, progress: Progress, data: CTRData | None = None) -> Result:
    """Train a model and make its run folder.

    Under ``accelerate launch`` every process calls this; all return the same result.

    Parameters
    ----------
    settings : RunSettings
        Of the training.
    progress : Progress
        Where the steps are shown.
    data : CTRData
        The dataset, loaded with ``settings.data``; read unless given.

    Raises
    ------
    UserError
        If the run exists, an input is missing or does not fit, or the loss is not finite.
    """
    with as_launched():
        state = PartialState(cpu=not torch.cuda.is_available())
    data = data or load_ctr_data(settings.dataset, settings.data)
    table = read_features(settings.table) if settings.table else None
    start = WarmUp(Path(settings.warm_up), settings.warm_up_part, data) if settings.warm_up else None
    fingerprint, info = data.dataset.info["fingerprint"], table.info if table else None
    with _run_folder(settings, [asdict(settings), fingerprint, info, state.num_processes], state) as folder:
        checkpoints = Checkpoints(folder, settings.checkpoint_every)
        result = fit(data, table, settings, settings.seed, progress=progress, checkpoints=checkpoints, start=start)
        if not state.is_main_process:
            return result
        np.save(folder / "test_scores.npy", result.test_scores)
        write_tensors(folder / "model.safetensors", result.state)
        vocabulary = keep_vocabulary(data, folder)
        summary = _summary(settings, result, fingerprint, vocabulary=vocabulary, table=info)
        write_json(folder / "summary.json", summary)
        for checkpoint in folder.glob("training-*.safetensors"):
            checkpoint.unlink()
    return result
