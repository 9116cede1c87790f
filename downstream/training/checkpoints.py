"""Checkpoints of a CTR training: a safetensors file, replaced as a whole, from which it continues bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor

from data_tools.common.errors import UserError
from data_tools.common.tensors import read_described, write_tensors
from downstream.ams.ids import is_sharded, whole


@dataclass
class TrainingState:
    """The state of a training, besides the weights.

    Attributes
    ----------
    step : int
        Steps done in the current epoch.
    losses : list of Tensor
        Of these steps, in this process.
    id_masking : dict or None
        State of the generator that masks IDs in this process; None at the start of an epoch.
    epochs : list of dict
        Figures of the finished epochs.
    best_epoch : int
        The best of them, -1 before there is one.
    valid : dict
        Its metrics on validation.
    best : dict of str to Tensor
        Its weights.
    """

    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    id_masking: dict[str, Any] | None = None
    epochs: list[dict] = field(default_factory=list)
    best_epoch: int = -1
    valid: dict[str, dict[str, float | None]] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Checkpoints:
    """Where the trainings of one ``fit`` are saved: ``folder/training-0.safetensors`` and so on, one each.

    Attributes
    ----------
    folder : Path
        Exists, and all processes see it.
    every : int
        Steps between two checkpoints; there is one after each epoch too.
    trainings : int
        Trainings so far.
    """

    folder: Path
    every: int
    trainings: int = 0

    def next(self) -> Path:
        """The file of the next training; a command that is run again makes its trainings in the same order."""
        self.trainings += 1
        return self.folder / f"training-{self.trainings - 1}.safetensors"


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _distributed(tensor: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, split over the processes where ``like`` is."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if is_sharded(like) else tensor


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, accelerator: Accelerator
) -> None:
    """Write a checkpoint; every process calls this, and the first one writes."""
    own = {
        "id_masking": state.id_masking,
        "losses": torch.stack(state.losses).double().tolist() if state.losses else [],
        "torch": torch.get_rng_state().tolist(),
    }
    processes = gather_object([own])
    moments = {
        f"{place}/{key}": value for place, own in optimizer.state_dict()["state"].items() for key, value in own.items()
    }
    parts = {"model": model.state_dict(), "best": state.best, "optimizer": moments}
    tensors = {name: tensor for kind, own in parts.items() for name, tensor in _prefixed(kind, whole(own)).items()}
    if not accelerator.is_main_process:
        return
    plain = {name: getattr(state, name) for name in ("step", "epochs", "best_epoch", "valid")}
    write_tensors(path, tensors, {"state": json.dumps({**plain, "processes": processes})})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> TrainingState:
    """Load the states of model, optimizer and torch's generator; returns that of the training.

    Raises
    ------
    UserError
        If the file is cut, damaged, or of other weights.
    """
    tensors: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    remedy = "remove it, and the same command trains from the start"
    found, about = read_described(path, remedy)
    if "state" not in about:
        raise UserError(f"{path} is no checkpoint of a training: it holds no state; {remedy}")
    for name, tensor in found.items():
        kind, rest = name.split("/", 1)
        tensors[kind][rest] = tensor.to(accelerator.device)
    plain = json.loads(about["state"])
    like = model.state_dict()
    for kind in ("model", "best"):
        tensors[kind] = {name: _distributed(tensor, like[name]) for name, tensor in tensors[kind].items()}
    model.load_state_dict(tensors["model"])
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors["optimizer"].items():
        place, key = name.split("/")
        own = weights[int(place)]
        moments.setdefault(int(place), {})[key] = _distributed(tensor, own) if tensor.shape == own.shape else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    own = plain.pop("processes")[accelerator.process_index]
    torch.set_rng_state(torch.tensor(own["torch"], dtype=torch.uint8))
    losses = list(torch.tensor(own["losses"], dtype=torch.float32, device=accelerator.device))
    return TrainingState(losses=losses, id_masking=own["id_masking"], best=tensors["best"], **plain)
