"""Checkpoints of a CTR training: a safetensors file, replaced as a whole, from which it goes on with the same bits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor

from data_tools.common.files import whole_file
from downstream.ams.ids import is_sharded, whole


@dataclass
class Standing:
    """Where a training stands, beside the weights.

    Attributes
    ----------
    step : steps done in the epoch under way
    losses : of these steps, in this process
    hiding : state of the generator that hides IDs in this process; None at the start of an epoch
    epochs : what the finished epochs were worth
    best_epoch, valid : the best of them and its metrics on validation; -1 and nothing before there is one
    best : its weights
    """

    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    hiding: dict[str, Any] | None = None
    epochs: list[dict] = field(default_factory=list)
    best_epoch: int = -1
    valid: dict[str, dict[str, float | None]] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Checkpoints:
    """Where the trainings of one ``fit`` are kept: ``folder/training-0.safetensors`` and so on, one each.

    Attributes
    ----------
    folder : made by whoever calls; all processes see it
    every : steps between two checkpoints; the end of an epoch is one too
    """

    folder: Path
    every: int
    trainings: int = 0

    def next(self) -> Path:
        """The file of the next training; they come in the same order each time."""
        self.trainings += 1
        return self.folder / f"training-{self.trainings - 1}.safetensors"


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _dealt_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, split over the processes where ``like`` is."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if is_sharded(like) else tensor


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, standing: Standing, accelerator: Accelerator
) -> None:
    """Write a checkpoint; all processes call this and the first one writes."""
    own = {
        "hiding": standing.hiding,
        "losses": torch.stack(standing.losses).double().tolist() if standing.losses else [],
        "torch": torch.get_rng_state().tolist(),
    }
    processes = gather_object([own])
    moments = {
        f"{place}/{key}": value for place, own in optimizer.state_dict()["state"].items() for key, value in own.items()
    }
    parts = {"model": model.state_dict(), "best": standing.best, "optimizer": moments}
    tensors = {name: tensor for kind, own in parts.items() for name, tensor in _prefixed(kind, whole(own)).items()}
    if not accelerator.is_main_process:
        return
    plain = {name: getattr(standing, name) for name in ("step", "epochs", "best_epoch", "valid")}
    with whole_file(path) as scratch:
        save_file(tensors, scratch, metadata={"standing": json.dumps({**plain, "processes": processes})})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> Standing:
    """Give model, optimizer and torch's generator back what they held; where the training stood."""
    tensors: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    # Several processes without a GPU are on "cpu:0", which safetensors does not know.
    device = "cpu" if accelerator.device.type == "cpu" else str(accelerator.device)
    with safe_open(path, framework="pt", device=device) as file:
        for name in file.keys():  # noqa: SIM118 (no dict)
            kind, rest = name.split("/", 1)
            tensors[kind][rest] = file.get_tensor(name)
        plain = json.loads(file.metadata()["standing"])
    like = model.state_dict()
    for kind in ("model", "best"):
        tensors[kind] = {name: _dealt_out(tensor, like[name]) for name, tensor in tensors[kind].items()}
    model.load_state_dict(tensors["model"])
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors["optimizer"].items():
        place, key = name.split("/")
        own = weights[int(place)]
        moments.setdefault(int(place), {})[key] = _dealt_out(tensor, own) if tensor.shape == own.shape else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    own = plain.pop("processes")[accelerator.process_index]
    torch.set_rng_state(torch.tensor(own["torch"], dtype=torch.uint8))
    losses = list(torch.tensor(own["losses"], dtype=torch.float32, device=accelerator.device))
    return Standing(losses=losses, hiding=own["hiding"], best=tensors["best"], **plain)
