"""A run in training: what is trained, with what, and how far it has come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data_tools.common.plugins import options_of
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.base import Context, Objective
from pretrain.settings import Settings
from pretrain.training import runs
from pretrain.training.step import Step


@dataclass
class TrainingState:
    """A run in training.

    Attributes
    ----------
    settings : Settings
        With the data it is trained on.
    accelerator : Accelerator
    encoder, objective : modules
        Unwrapped.
    passes : Step
        Forward and backward pass of both, wrapped for many processes and in mixed precision.
    optimizer : Optimizer
    precision : str
        fp32, bf16 or fp16.
    step : int
        Steps that are done.
    seconds : float
        Of training before this process started.
    started : float
        When this process began to train, in seconds since 1970.
    """

    settings: Settings
    accelerator: Accelerator
    encoder: ImageEncoder
    objective: Objective
    passes: Step
    optimizer: torch.optim.Optimizer
    precision: str
    step: int
    seconds: float
    started: float = field(default_factory=time.time)

    @property
    def seconds_so_far(self) -> float:
        """Of training, in this process and those before."""
        return self.seconds + time.time() - self.started

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the run as it is."""
        about: dict[str, Any] = {"seconds": self.seconds_so_far, "precision": self.precision}
        if self.accelerator.scaler:  # of fp16: what the loss is multiplied by, and for how long that has gone well
            about["scaler"] = self.accelerator.scaler.state_dict()
        runs.save_checkpoint(
            Path(self.settings.out),
            self.step,
            encoder=self.encoder,
            optimizer=self.optimizer,
            objective=self.objective,
            state=about,
        )


def build_objective(settings: Settings, encoder: ImageEncoder) -> Objective:
    """The objective that the settings name, in training mode."""
    chosen, batch = settings.objective, settings.batch
    context = Context(encoder, settings.data, history=batch.history, slots=batch.slots, guards=chosen.guards)
    kind, options = OBJECTIVES[chosen.name], options_of(chosen, chosen.name)
    parts = {name: OBJECTIVES[name](options_of(chosen, name), context) for name in kind.made_of(options)}
    return kind(options, replace(context, parts=parts)).train()
