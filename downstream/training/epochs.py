"""The epochs of a CTR training: batches, steps, validation and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import Progress
from torch import Tensor, nn

from data_tools.common.errors import UserError
from data_tools.common.memory import give_back_where_scarce
from downstream.ams.joining import distribute
from downstream.data.ahead import batches_ahead, loader_threads
from downstream.data.ctr_data import Batch, CTRData, mask_ids
from downstream.data.tensors import tensors
from downstream.layers.click_model import ClickModel
from downstream.settings import OptimSettings
from downstream.training.checkpoints import Checkpoints, TrainingState, load_checkpoint, save_checkpoint
from downstream.training.optimizer import make_optimizer
from downstream.training.scoring import score, split_metrics
from downstream.training.settings import TrainingSettings


def _own_batches(rows: np.ndarray, batch_size: int, accelerator: Accelerator) -> Iterator[np.ndarray]:
    """This process's share of each batch; a last batch too small for all processes is left out."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if len(batch) >= accelerator.num_processes:
            yield batch[accelerator.process_index :: accelerator.num_processes]


def _order(data: CTRData, by_context: bool, rng: np.random.Generator) -> np.ndarray:
    """The training impressions in random order, where ``by_context`` with those of one context side by side."""
    rows = data.rows["train"]
    if not by_context:
        return rng.permutation(rows)
    _, context = np.unique(data.contexts(rows), return_inverse=True)
    return rows[np.argsort(rng.permutation(context.max() + 1)[context], kind="stable")]


def _training_batches(
    data: CTRData, settings: OptimSettings, seed: tuple[int, int], skip: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's batches of one epoch without the first ``skip``.

    Every process draws the same order and takes its part of each batch.
    """
    order = _order(data, settings.by_context, np.random.default_rng(seed))[skip * settings.batch_size :]
    threads = loader_threads(settings.loader_threads, accelerator.num_processes)
    yield from batches_ahead(data, _own_batches(order, settings.batch_size, accelerator), threads)


class PenalisedLoss(nn.Module):
    """A model's penalised loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: ClickModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.penalised_loss(batch)


def share_buffers(model: nn.Module) -> None:
    """Where there are several processes, give all the first one's buffers, such as moving averages, which it saves.

    DDP does so before a forward pass in training alone.
    """
    if torch.distributed.is_initialized():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


@dataclass
class _Training:
    """A training in progress."""

    model: ClickModel
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    data: CTRData
    settings: OptimSettings
    seed: int
    accelerator: Accelerator
    checkpoint: Path | None
    every: int

    def __post_init__(self) -> None:
        self.state = TrainingState()
        self.steps = math.ceil(len(self.data.rows["train"]) / self.settings.batch_size)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.checkpoint and self.checkpoint.exists():
            self.state = load_checkpoint(self.checkpoint, self.model, self.optimizer, self.accelerator)

    @property
    def done(self) -> int:
        """Steps since the start."""
        return len(self.state.epochs) * self.steps + self.state.step

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` epochs in a row brought no better AUC."""
        epochs, patience = len(self.state.epochs), self.settings.patience
        return epochs == self.settings.epochs or bool(patience and epochs - 1 - self.state.best_epoch >= patience)

    def save(self) -> None:
        """Write a checkpoint, where the training has one."""
        if self.checkpoint:
            save_checkpoint(self.checkpoint, self.model, self.optimizer, self.state, self.accelerator)

    def epoch(self, advance: Callable[[], None]) -> None:
        """The rest of one pass over the training split, and its validation."""
        state, settings, device = self.state, self.settings, self.accelerator.device
        begun, skipped, seed = time.monotonic(), state.step, (self.seed, len(state.epochs))
        id_masking = np.random.default_rng([*seed, self.accelerator.process_index])
        if state.id_masking:
            id_masking.bit_generator.state = state.id_masking
        self.loss.train()
        for batch in _training_batches(self.data, settings, seed, state.step, self.accelerator):
            self._step(tensors(mask_ids(batch, settings.unknown_rate, id_masking), device))
            advance()
            if state.step % self.every == 0:
                state.id_masking = id_masking.bit_generator.state
                self.save()
        loss, took = self._mean_loss(), time.monotonic() - begun
        share_buffers(self.model)
        scores = score(self.model, self.data, self.data.rows["valid"], 4 * settings.batch_size, self.accelerator)
        metrics = split_metrics(self.data, "valid", scores)
        speed = (self.steps - skipped) * settings.batch_size / took
        seconds = time.monotonic() - begun
        figures = {"loss": loss, "seconds": seconds, "samples_per_second": speed, "valid": metrics["all"]}
        if state.best_epoch < 0 or metrics["all"]["auc"] > state.valid["all"]["auc"]:
            state.best_epoch, state.valid = len(state.epochs), metrics
            state.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        state.epochs.append(figures)
        state.step, state.losses, state.id_masking = 0, [], None
        self.save()

    def _step(self, batch: dict[str, Tensor]) -> None:
        decay = self.settings.lr_decay ** (self.done // self.settings.lr_decay_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * decay
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.model.after_step(self.optimizer.param_groups[0]["lr"])
        self.state.losses.append(loss.detach())
        self.state.step += 1
        if self.state.step % 100 == 0:
            self._mean_loss()
            give_back_where_scarce()

    def _mean_loss(self) -> float:
        """Mean loss of this process's steps in the epoch so far.

        Raises
        ------
        UserError
            If it is not finite.
        """
        mean = torch.stack(self.state.losses).mean().item()
        if not math.isfinite(mean):
            epoch = len(self.state.epochs)
            raise UserError(f"the loss became {mean} by step {self.state.step} of epoch {epoch}; lower optim.lr")
        return mean


@dataclass(frozen=True)
class Loop:
    """The training loop, for a CTR model and for what its form trains before it.

    Attributes
    ----------
    data : CTRData
        The dataset.
    settings : TrainingSettings
        Of the CTR training.
    seed : int
        Of the order of the impressions and the masked IDs.
    accelerator : Accelerator
        Device and processes.
    progress : Progress
        Where the steps are shown.
    checkpoints : Checkpoints or None
        Where the trainings are saved.
    """

    data: CTRData
    settings: TrainingSettings
    seed: int
    accelerator: Accelerator
    progress: Progress
    checkpoints: Checkpoints | None

    def train(self, model: ClickModel, optim: OptimSettings | None = None, name: str = "training") -> TrainingState:
        """Train a model on the training split and leave it at the epoch with the highest AUC on validation.

        Parameters
        ----------
        model : ClickModel
            With its random weights.
        optim : OptimSettings
            By default those of the CTR training.
        name : str
            Shown next to the steps.
        """
        optim = optim or self.settings.optim
        model.to(self.accelerator.device)
        loss = PenalisedLoss(model)
        distribute(model, loss, self.settings.server)
        adam = make_optimizer(model, self.settings)
        loss, adam = self.accelerator.prepare(loss, adam)
        path, every = (self.checkpoints.next(), self.checkpoints.every) if self.checkpoints else (None, 1)
        training = _Training(model, loss, adam, self.data, optim, self.seed, self.accelerator, path, every)
        task = self.progress.add_task(name, total=optim.epochs * training.steps, completed=training.done)
        while not training.finished:
            training.epoch(lambda: self.progress.advance(task))
        model.load_state_dict(training.state.best)
        self.progress.remove_task(task)
        return training.state

    def train_form(self, model: ClickModel, epochs: int) -> list[dict]:
        """Train what a form needs before the CTR model (see :data:`downstream.forms.base.Train`)."""
        optim = replace(self.settings.optim, epochs=epochs, patience=1)
        return self.train(model, optim, f"training {self.settings.image.form}").epochs
