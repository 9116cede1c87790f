"""The epochs of a CTR training: batches, steps, validation and checkpoints."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import Progress
from torch import Tensor, nn

from data_tools.common.cli import UserError
from downstream.ams.ids import is_sharded
from downstream.ams.joining import distribute
from downstream.data.ctr_data import Batch, CTRData, hide_ids
from downstream.images.features import Features
from downstream.models import CTRModel
from downstream.training.checkpoints import Checkpoints, Standing, load_checkpoint, save_checkpoint
from downstream.training.scoring import score, split_metrics, tensors

if TYPE_CHECKING:
    from downstream.training.fit import OptimSettings, TrainingSettings


def _own_batches(rows: np.ndarray, batch_size: int, accelerator: Accelerator) -> Iterator[np.ndarray]:
    """This process's share of each batch; a rest too small for all processes is left out."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if len(batch) >= accelerator.num_processes:
            yield batch[accelerator.process_index :: accelerator.num_processes]


def _order(data: CTRData, by_context: bool, rng: np.random.Generator) -> np.ndarray:
    """The training impressions in random order, those of one context side by side where they are to be."""
    rows = data.rows["train"]
    if not by_context:
        return rng.permutation(rows)
    _, context = np.unique(data.contexts(rows), return_inverse=True)
    return rows[np.argsort(rng.permutation(context.max() + 1)[context], kind="stable")]


def _training_batches(
    data: CTRData, settings: OptimSettings, seed: tuple[int, int], skip: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's batches of one epoch but the first: every process draws one order and takes its part of a batch.

    A thread makes the next batch while the model is at work on this one.
    """
    order = _order(data, settings.by_context, np.random.default_rng(seed))[skip * settings.batch_size :]
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
            self._step(tensors(hide_ids(batch, settings.unknown_rate, hiding), device))
            advance()
            if at.step % self.every == 0:
                at.hiding = hiding.bit_generator.state
                self.keep()
        loss, took = self._mean_loss(), time.monotonic() - begun
        scores = score(self.model, self.data, self.data.rows["valid"], 4 * settings.batch_size, self.accelerator)
        metrics = split_metrics(self.data, "valid", scores)
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


def train_epochs(
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
