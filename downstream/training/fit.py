"""Training of one CTR model on loaded data: what ``downstream.train`` and ``downstream.compare`` share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.progress import Progress
from torch import Tensor, nn

from data_tools.common.cli import UserError, progress_bar
from data_tools.tables.table import EmbeddingTable
from downstream.ams.feature_store import FeatureStore
from downstream.ams.heartbeat import naming_the_lost
from downstream.ams.ids import whole
from downstream.ams.settings import ServerSettings
from downstream.data.ctr_data import CTRData, DataSettings
from downstream.forms import ImageSettings
from downstream.forms.base import Form
from downstream.images.joined import join
from downstream.models import CTRModel, ModelSettings, build_model
from downstream.training.checkpoints import Checkpoints
from downstream.training.epochs import train_epochs
from downstream.training.scoring import score, split_metrics


@dataclass(frozen=True)
class OptimSettings:
    """The training.

    Attributes
    ----------
    lr : Adam's learning rate
    batch_size : impressions a step, over all processes
    epochs : passes over the training split; CTR models tend to overfit after one
    by_context : impressions of one user, history and scene (a page view's) stand in one batch, so that what they share
        is computed once (the common-feature trick of arXiv 1704.05194); by default each stands where it falls
    unknown_rate : share of users and items whose ID is hidden in a training batch, so that "unknown" is learned
    lr_decay, lr_decay_steps : the learning rates are multiplied by lr_decay each lr_decay_steps steps; DICM's paper
        has 0.9 and 24,000
    patience : epochs in a row without a better AUC on validation after which training stops; by default it never does
    threads : CPU threads of a process; small batches gain little from more, and lose much where cores are shared
    """

    lr: float = 1e-3
    batch_size: int = 256
    epochs: int = 1
    by_context: bool = False
    unknown_rate: float = 0.05
    lr_decay: float = 1.0
    lr_decay_steps: int = 24_000
    patience: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if (
            min(self.batch_size, self.epochs, self.patience or 1, self.threads, self.lr_decay_steps) < 1
            or self.lr <= 0
            or not 0 < self.lr_decay <= 1
            or not 0 <= self.unknown_rate < 1
        ):
            raise UserError(
                f"{self}: batch_size, epochs, patience, threads and lr_decay_steps from 1, lr above 0, lr_decay in "
                "(0, 1] and unknown_rate in [0, 1) are expected"
            )


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides a trained model, beside the data, the table and the seed.

    Attributes
    ----------
    data : what of the dataset is shown
    model : the network
    image : how the images enter it
    optim : the training
    server : how several processes share the images' raw features
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    server: ServerSettings = field(default_factory=ServerSettings)


@dataclass(frozen=True)
class Result:
    """A trained model and what it is worth.

    Attributes
    ----------
    metrics : split ("valid", "test") -> slice -> metric -> value, None where undefined; conversions are slices too
    epochs : loss, seconds and validation metrics of each epoch
    best_epoch : the epoch kept, with the highest AUC on validation (from 0)
    test_scores : click probabilities of the test split, float32, in the order of its rows
    task_scores : task -> the same; "click" and what else the model predicts
    state : the kept weights
    items_without_image : items shown in any split that the table lacks; None without a table
    report : what the form of images says of itself (see ``downstream.forms.base.Form.report``)
    seconds : of training and scoring
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


def fit(
    data: CTRData,
    table: EmbeddingTable | FeatureStore | None,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Callable[[CTRModel], None] | None = None,
) -> Result:
    """Train a CTR model and score the test split with its best epoch.

    Under ``accelerate launch`` every process calls this; all return the same result.

    Parameters
    ----------
    data : loaded with ``settings.data``; may be shared by many calls
    table : item embeddings, or a store of raw features, or None for IDs only
    seed : of the weights, the order of the impressions and the hidden IDs
    progress : where the steps are shown
    checkpoints : where the training is kept while it runs, and taken up again if it is found there
    start : called with the new model before it is trained, for weights to start from

    Raises
    ------
    UserError
        If the table is of other items, the loss is not finite, or another process was lost.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # or several processes would not find each other
    with naming_the_lost(settings.server.timeout):
        shown = progress or progress_bar(shown=False)
        return _fit(data, table, settings, seed, shown, accelerator, checkpoints, start)


def _fit(
    data: CTRData,
    table: EmbeddingTable | FeatureStore | None,
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    accelerator: Accelerator,
    checkpoints: Checkpoints | None,
    start: Callable[[CTRModel], None] | None,
) -> Result:
    started = time.monotonic()
    set_seed(seed)
    torch.set_num_threads(settings.optim.threads)
    images = join(table, data, settings.image.form, settings.server) if table else None
    model = build_model(data, images, settings.model, settings.image)
    if start:
        start(model)
    if isinstance(model.images, Form):

        def train(stage: nn.Module, epochs: int) -> list[dict]:
            own = replace(settings, optim=replace(settings.optim, epochs=epochs, patience=1))
            name = f"training {settings.image.form}"
            return train_epochs(stage, data, own, seed, accelerator, progress, checkpoints, name).epochs

        model.images.fit(train)
    trained = train_epochs(model, data, settings, seed, accelerator, progress, checkpoints)
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
