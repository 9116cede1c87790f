"""Training of one CTR model on loaded data: what ``downstream.train`` and ``downstream.compare`` share."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

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
from downstream.checkpoints import Checkpoints, Standing, load_checkpoint, save_checkpoint
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
    lr_decay, lr_decay_steps : the learning rates are multiplied by lr_decay each lr_decay_steps steps; DICM's paper
        has 0.9 and 24,000
    patience : epochs in a row without a better AUC on validation after which training stops; by default it never does
    threads : CPU threads of a process; small batches gain little from more, and lose much where cores are shared
    """

    lr: float = 1e-3
    batch_size: int = 256
    epochs: int = 1
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
    data: CTRData, settings: OptimSettings, seed: tuple[int, int], skip: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's batches of one epoch but the first: every process draws one order and takes its part of a batch.

    A thread makes the next batch while the model is at work on this one.
    """
    order = np.random.default_rng(seed).permutation(data.rows["train"])[skip * settings.batch_size :]
    with ThreadPoolExecutor(1) as maker:
        ahead: deque[Future[Batch]] = deque()
        for own in _own_batches(order, settings.batch_size, accelerator):
            ahead.append(maker.submit(data.batch, own))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


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
    kinds = {sharded: [weight for weight in rest if is_sharded(weight) is sharded] for sharded in (False, True)}
    groups = [
        {"params": kind, "lr": settings.optim.lr, "fused": not sharded} for sharded, kind in kinds.items() if kind
    ]
    if tuned:
        groups.append({"params": list(tuned), "lr": settings.image.lr or settings.optim.lr, "fused": True})
    return groups


@dataclass
class _Training:
    """A training under way: what it works on, where it stands and how often that is kept."""

    model: CTRModel
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    data: CTRData
    settings: OptimSettings
    seed: int
    accelerator: Accelerator
    kept: Path | None
    every: int

    def __post_init__(self) -> None:
        self.at = Standing()
        self.steps = math.ceil(len(self.data.rows["train"]) / self.settings.batch_size)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.kept and self.kept.exists():
            self.at = load_checkpoint(self.kept, self.model, self.optimizer, self.accelerator)

    @property
    def done(self) -> int:
        """Steps since the start."""
        return len(self.at.epochs) * self.steps + self.at.step

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or too many in a row were no better than one before."""
        epochs, patience = len(self.at.epochs), self.settings.patience
        return epochs == self.settings.epochs or bool(patience and epochs - 1 - self.at.best_epoch >= patience)

    def keep(self) -> None:
        """Write a checkpoint, where they are kept."""
        if self.kept:
            save_checkpoint(self.kept, self.model, self.optimizer, self.at, self.accelerator)

    def epoch(self, advance: Callable[[], None]) -> None:
        """The rest of one pass over the training split, and its validation."""
        at, settings, device = self.at, self.settings, self.accelerator.device
        begun, skipped, seed = time.monotonic(), at.step, (self.seed, len(at.epochs))
        hiding = np.random.default_rng([*seed, self.accelerator.process_index])
        if at.hiding:
            hiding.bit_generator.state = at.hiding
        self.objective.train()
        for batch in _training_batches(self.data, settings, seed, at.step, self.accelerator):
            self._step(_tensors(hide_ids(batch, settings.unknown_rate, hiding), device))
            advance()
            if at.step % self.every == 0:
                at.hiding = hiding.bit_generator.state
                self.keep()
        loss, took = self._mean_loss(), time.monotonic() - begun
        scores = score(self.model, self.data, self.data.rows["valid"], 4 * settings.batch_size, self.accelerator)
        metrics = _metrics(self.data, "valid", scores)
        speed = (self.steps - skipped) * settings.batch_size / took
        seconds = time.monotonic() - begun
        figures = {"loss": loss, "seconds": seconds, "samples_per_second": speed, "valid": metrics["all"]}
        if at.best_epoch < 0 or metrics["all"]["auc"] > at.valid["all"]["auc"]:
            at.best_epoch, at.valid = len(at.epochs), metrics
            at.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        at.epochs.append(figures)
        at.step, at.losses, at.hiding = 0, [], None
        self.keep()

    def _step(self, batch: dict[str, Tensor]) -> None:
        decay = self.settings.lr_decay ** (self.done // self.settings.lr_decay_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * decay
        loss = self.objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.model.after_step(self.optimizer.param_groups[0]["lr"])
        self.at.losses.append(loss.detach())
        self.at.step += 1
        if self.at.step % 100 == 0:
            self._mean_loss()

    def _mean_loss(self) -> float:
        """Of this process's steps in the epoch so far.

        Raises
        ------
        UserError
            If it is not finite.
        """
        mean = torch.stack(self.at.losses).mean().item()
        if not math.isfinite(mean):
            epoch = len(self.at.epochs)
            raise UserError(f"the loss became {mean} by step {self.at.step} of epoch {epoch}; lower optim.lr")
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


def _train(
    model: nn.Module,
    data: CTRData,
    settings: TrainingSettings,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
    checkpoints: Checkpoints | None,
    name: str = "training",
) -> Standing:
    """Train a model on the training split and leave it at the epoch with the highest AUC on validation."""
    model.to(accelerator.device)
    objective = Objective(model)
    distribute(model, objective, settings.server)
    objective, optimizer = accelerator.prepare(objective, torch.optim.Adam(_parameters(model, settings)))
    kept, every = (checkpoints.next(), checkpoints.every) if checkpoints else (None, 1)
    training = _Training(model, objective, optimizer, data, settings.optim, seed, accelerator, kept, every)
    task = progress.add_task(name, total=settings.optim.epochs * training.steps, completed=training.done)
    while not training.finished:
        training.epoch(lambda: progress.advance(task))
    model.load_state_dict(training.at.best)
    progress.remove_task(task)
    return training.at


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
    accelerator = Accelerator()
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
            return _train(stage, data, own, seed, accelerator, progress, checkpoints, name).epochs

        model.images.fit(train)
    trained = _train(model, data, settings, seed, accelerator, progress, checkpoints)
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
