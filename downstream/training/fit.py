"""Training of one CTR model on loaded data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.progress import Progress
from torch import Tensor

from data_tools.common.cli import progress_bar
from data_tools.common.launch import as_launched
from data_tools.common.memory import keep_freed_memory
from data_tools.tables.table import EmbeddingTable
from downstream.ams.feature_store import FeatureStore
from downstream.ams.heartbeat import report_lost_ranks
from downstream.ams.ids import whole
from downstream.data.ctr_data import CTRData
from downstream.forms.base import Form
from downstream.images.joined import search_histories
from downstream.images.reading import join
from downstream.models.base import CTRModel
from downstream.models.build import build_model
from downstream.training.checkpoints import Checkpoints
from downstream.training.epochs import Loop
from downstream.training.scoring import score, split_metrics
from downstream.training.settings import TrainingSettings


@dataclass(frozen=True)
class Result:
    """A trained model and its metrics.

    Attributes
    ----------
    metrics : dict
        Split ("valid", "test") -> slice -> metric -> value, None where undefined; conversions are slices too.
    epochs : list of dict
        Loss, seconds and validation metrics of each epoch.
    best_epoch : int
        The epoch that is kept, the one with the highest AUC on validation (from 0).
    test_scores : numpy.ndarray
        float32, click probabilities of the test split, in the order of its rows.
    task_scores : dict of str to numpy.ndarray
        Task -> the same; "click" and what else the model predicts.
    state : dict of str to Tensor
        The weights of that epoch.
    items_without_image : int or None
        Items shown in any split that the table lacks; None without a table.
    report : dict
        Of the form (see :meth:`downstream.forms.base.Form.report`).
    seconds : float
        Of training and scoring.
    """

    metrics: dict[str, dict[str, dict[str, float | None]]]
    epochs: list[dict]
    best_epoch: int
    test_scores: np.ndarray
    task_scores: dict[str, np.ndarray]
    state: dict[str, Tensor]
    items_without_image: int | None
    report: dict
    seconds: float

    def record(self) -> dict[str, Any]:
        """What is kept of it as JSON, besides weights and scores."""
        return {
            "metrics": self.metrics,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "items_without_image": self.items_without_image,
            "form": self.report,
            "seconds": self.seconds,
        }


def fit(
    data: CTRData,
    table: EmbeddingTable | FeatureStore | None,
    settings: TrainingSettings,
    seed: int,
    *,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Callable[[CTRModel], None] | None = None,
) -> Result:
    """Train a CTR model and score the test split with its best epoch.

    Under ``accelerate launch`` every process calls this; all return the same result.

    Parameters
    ----------
    data : CTRData
        Loaded with ``settings.data``; may be shared by many calls.
    table : EmbeddingTable or FeatureStore
        Item embeddings, or a store of raw features; None for IDs only.
    settings : TrainingSettings
        Of the training.
    seed : int
        Of the weights, the order of the impressions and the masked IDs.
    progress : Progress
        Where the steps are shown; by default nowhere.
    checkpoints : Checkpoints
        Where the training is saved while it runs, and continued from if it is found there; by default nowhere.
    start : callable
        Called with the new model before it is trained, to load weights to start from.

    Raises
    ------
    UserError
        If the table is of other items, the loss is not finite, or another process was lost.
    """
    with as_launched():
        # Without cpu, several processes would not find each other. The precision is not left to what launched them: it
        # is no setting of a run, so nothing would tell the results of one from those of another.
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    with report_lost_ranks(settings.server.timeout):
        started = time.monotonic()
        set_seed(seed)
        torch.set_num_threads(settings.optim.threads)
        keep_freed_memory()
        images = join(table, data, settings.server) if table else None
        data = search_histories(data, images)
        model = build_model(data, images, settings.model, settings.image)
        if start:
            start(model)
        loop = Loop(data, settings, seed, accelerator, progress or progress_bar(shown=False), checkpoints)
        if isinstance(model.images, Form):
            model.images.fit(loop.train_form)
        trained = loop.train(model)
        scores = score(model, data, data.rows["test"], 4 * settings.optim.batch_size, accelerator)
        return Result(
            metrics={"valid": trained.valid, "test": split_metrics(data, "test", scores)},
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            test_scores=scores["click"],
            task_scores=scores,
            state={name: value.cpu() for name, value in whole(model.state_dict()).items()},
            items_without_image=int((~images.found[np.unique(data.item)]).sum()) if images else None,
            report=model.images.report(data) if isinstance(model.images, Form) else {},
            seconds=time.monotonic() - started,
        )
