"""Training of one CTR model on loaded data: what ``downstream.train`` and ``downstream.compare`` share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.progress import Progress
from torch import Tensor, nn

from data_tools.cli import UserError, progress_bar
from data_tools.table import EmbeddingTable
from downstream.ams.feature_store import FeatureStore
from downstream.ams.heartbeat import naming_the_lost
from downstream.ams.ids import is_sharded, whole
from downstream.ams.joining import distribute
from downstream.ams.settings import ServerSettings
from downstream.data import Batch, CTRData, DataSettings, hide_ids
from downstream.features import Features
from downstream.forms import ImageSettings
from downstream.forms.base import Form
from downstream.images import join
from downstream.metrics import all_metrics
from downstream.models import CTRModel, ModelSettings, build_model


@dataclass(frozen=True)
class OptimSettings:
    """The training.

    Attributes
    ----------
    lr : Adam's learning rate
    batch_size : impressions a step, over all processes
    epochs : passes over the training split; CTR models tend to overfit after one
    unknown_rate : share of users and items whose ID is hidden in a training batch, so that "unknown" is learned
    patience : epochs in a row without a better AUC on validation after which training stops; by default it never does
    threads : CPU threads of a process; small batches gain little from more, and lose much where cores are shared
    """

    lr: float = 1e-3
    batch_size: int = 256
    epochs: int = 1
    unknown_rate: float = 0.05
    patience: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if (
            min(self.batch_size, self.epochs, self.patience or 1, self.threads) < 1
            or self.lr <= 0
            or not 0 <= self.unknown_rate < 1
        ):
            expected = "batch_size, epochs, patience and threads from 1, lr above 0 and unknown_rate in [0, 1)"
            raise UserError(f"{self}: {expected} are expected")


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


def _tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}


def _own_batches(rows: np.ndarray, batch_size: int, accelerator: Accelerator) -> Iterator[np.ndarray]:
    """This process's share of each batch; a rest too small for all processes is left out."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if len(batch) >= accelerator.num_processes:
            yield batch[accelerator.process_index :: accelerator.num_processes]


def score(
    model: CTRModel, data: CTRData, rows: np.ndarray, batch_size: int, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """task -> probabilities of some impressions, float32 (len(rows)), computed by all processes together."""
    count = accelerator.num_processes
    padded = np.resize(rows, math.ceil(len(rows) / count) * count)
    own = padded[accelerator.process_index :: count]
    model.eval()
    with torch.inference_mode():
        parts = [
            model.probabilities(_tensors(data.batch(own[start : start + batch_size]), accelerator.device))
            for start in range(0, len(own), batch_size)
        ]
    found = {}
    for task in parts[0]:
        gathered = accelerator.gather(torch.cat([part[task] for part in parts]))
        found[task] = gathered.reshape(count, -1).T.flatten()[: len(rows)].cpu().numpy()
    return found


def _training_batches(
    data: CTRData, settings: OptimSettings, seed: tuple[int, int], accelerator: Accelerator
) -> Iterator[dict[str, Tensor]]:
    """This process's batches of one epoch: every process draws the same order and takes its part of each batch."""
    order = np.random.default_rng(seed).permutation(data.rows["train"])
    hiding = np.random.default_rng([*seed, accelerator.process_index])
    for own in _own_batches(order, settings.batch_size, accelerator):
        yield _tensors(hide_ids(data.batch(own), settings.unknown_rate, hiding), accelerator.device)


class Objective(nn.Module):
    """A model's loss, with the L2 of its IDs, as a forward pass: where several processes average gradients."""

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.model.loss(batch)
        return loss + self.model.l2 * self.model.embedding_l2(batch) if self.model.l2 else loss


def _parameters(model: CTRModel, settings: TrainingSettings) -> list[dict]:
    """The optimiser's groups: raw features that are learned have a learning rate of their own where one is set.

    Sharded tables have a group too: Adam steps through a group in one go, which takes tensors of one kind.
    """
    tuned = {weight for part in model.modules() if isinstance(part, Features) for weight in part.parameters()}
    rest = [weight for weight in model.parameters() if weight not in tuned]
    kinds = ([weight for weight in rest if is_sharded(weight) is sharded] for sharded in (False, True))
    groups = [{"params": kind, "lr": settings.optim.lr} for kind in kinds if kind]
    return [*groups, {"params": list(tuned), "lr": settings.image.lr or settings.optim.lr}] if tuned else groups


def _train_epoch(
    objective: nn.Module,
    model: CTRModel,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Tensor]],
    accelerator: Accelerator,
    advance: Callable[[], None],
) -> float:
    """One pass over the batches; the mean loss of this process."""
    objective.train()
    losses = []
    for batch in batches:
        loss = objective(batch)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimizer.step()
        model.after_step(optimizer.param_groups[0]["lr"])
        losses.append(loss.detach())
        advance()
    mean = torch.stack(losses).mean().item()
    if not math.isfinite(mean):
        raise UserError(f"the loss became {mean}; lower optim.lr")
    return mean


def _metrics(data: CTRData, split: str, scores: dict[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """The metrics of the clicks in each slice, and of the conversions where the model predicts them.

    "conversion": click and purchase, over all impressions (pCTCVR); "after click": purchase, over the clicks (pCVR).
    """
    rows = data.rows[split]
    found = {
        name: all_metrics(data.click[rows][part], scores["click"][part], data.user[rows][part])
        for name, part in data.slices(split).items()
    }
    if "conversion" in scores:
        known, clicked = ~np.isnan(data.conversion[rows]), data.click[rows] == 1
        for name, task, part in (("conversion", "conversion", known), ("after click", "purchase", known & clicked)):
            found[name] = all_metrics(data.conversion[rows][part], scores[task][part], data.user[rows][part])
    return found


@dataclass(frozen=True)
class _Trained:
    """What the epochs of a training were worth (see :class:`Result`); the model is left with the best one's weights."""

    epochs: list[dict]
    best_epoch: int
    valid: dict[str, dict[str, float | None]]


def _train(
    model: nn.Module,
    data: CTRData,
    settings: TrainingSettings,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
    name: str = "training",
) -> _Trained:
    """Train a model on the training split and leave it at the epoch with the highest AUC on validation."""
    model.to(accelerator.device)
    objective = Objective(model)
    distribute(model, objective, settings.server)
    objective, optimizer = accelerator.prepare(objective, torch.optim.Adam(_parameters(model, settings)))
    batch_size = settings.optim.batch_size
    steps = math.ceil(len(data.rows["train"]) / batch_size)
    task = progress.add_task(name, total=settings.optim.epochs * steps)
    epochs: list[dict] = []
    best_epoch, state, valid = -1, {}, {}
    for epoch in range(settings.optim.epochs):
        begun = time.monotonic()
        batches = _training_batches(data, settings.optim, (seed, epoch), accelerator)
        loss = _train_epoch(objective, model, optimizer, batches, accelerator, lambda: progress.advance(task))
        speed = len(data.rows["train"]) / (time.monotonic() - begun)
        metrics = _metrics(data, "valid", score(model, data, data.rows["valid"], 4 * batch_size, accelerator))
        epochs.append(
            {
                "loss": loss,
                "seconds": time.monotonic() - begun,
                "samples_per_second": speed,
                "valid": metrics["all"],
            }
        )
        if best_epoch < 0 or metrics["all"]["auc"] > valid["all"]["auc"]:
            best_epoch, valid = epoch, metrics
            state = {name: value.clone() for name, value in model.state_dict().items()}
        if settings.optim.patience and epoch - best_epoch >= settings.optim.patience:
            break
    model.load_state_dict(state)
    progress.remove_task(task)
    return _Trained(epochs, best_epoch, valid)


def fit(
    data: CTRData,
    table: EmbeddingTable | FeatureStore | None,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
) -> Result:
    """Train a CTR model and score the test split with its best epoch.

    Under ``accelerate launch`` every process calls this; all return the same result.

    Parameters
    ----------
    data : loaded with ``settings.data``; may be shared by many calls
    table : item embeddings, or a store of raw features, or None for IDs only
    seed : of the weights, the order of the impressions and the hidden IDs
    progress : where the steps are shown

    Raises
    ------
    UserError
        If the table is of other items, the loss is not finite, or another process was lost.
    """
    accelerator = Accelerator()
    with naming_the_lost(settings.server.timeout):
        return _fit(data, table, settings, seed, progress or progress_bar(shown=False), accelerator)


def _fit(
    data: CTRData,
    table: EmbeddingTable | FeatureStore | None,
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    accelerator: Accelerator,
) -> Result:
    started = time.monotonic()
    set_seed(seed)
    torch.set_num_threads(settings.optim.threads)
    images = join(table, data, settings.image.form, settings.server) if table else None
    model = build_model(data, images, settings.model, settings.image)
    if isinstance(model.images, Form):

        def train(stage: nn.Module, epochs: int) -> list[dict]:
            own = replace(settings, optim=replace(settings.optim, epochs=epochs, patience=1))
            return _train(stage, data, own, seed, accelerator, progress, f"training {settings.image.form}").epochs

        model.images.fit(train)
    trained = _train(model, data, settings, seed, accelerator, progress)
    scores = score(model, data, data.rows["test"], 4 * settings.optim.batch_size, accelerator)
    return Result(
        metrics={"valid": trained.valid, "test": _metrics(data, "test", scores)},
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        test_scores=scores["click"],
        task_scores=scores,
        state={name: value.cpu() for name, value in whole(model.state_dict()).items()},
        items_without_image=int((~images.found[np.unique(data.item)]).sum()) if images else None,
        report=model.images.report(data) if isinstance(model.images, Form) else {},
        seconds=time.monotonic() - started,
    )
