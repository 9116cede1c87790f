"""A run folder: settings and provenance, checkpoints that appear whole or not at all, best weights.

``run.json``                  resolved settings, versions, git state, machine
``initial.safetensors``       the encoder before training
``best.safetensors``          the encoder at its best validation so far, with ``best.json``
``checkpoints/step-NNNNNN``   encoder, optimiser, what the objective learns (safetensors) and state.json; the newest
                              two are kept
``log.jsonl``                 one line a log line; ``tensorboard/`` the same as events
``stopped.json``              where the collapse watch stopped the run, and its reason
``summary.json``              written at the end, with ``compare.yaml``, the configuration of the run's comparison
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from data_tools.common.files import finite, read_json, whole_file, whole_folder, write_json

STOPPED = "stopped.json"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    with whole_file(path) as scratch:
        safetensors.torch.save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, scratch)


def save_checkpoint(
    run: Path,
    step: int,
    encoder: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    objective: torch.nn.Module,
) -> None:
    """Write ``checkpoints/step-<step>`` whole, then remove all but the newest two."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    slots = optimizer.state_dict()["state"]
    flat = {f"{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
    with whole_folder(folder, overwrite=True) as scratch:
        save_tensors(scratch / "encoder.safetensors", encoder.state_dict())
        save_tensors(scratch / "optimizer.safetensors", flat)
        if learned := objective.state_dict():
            save_tensors(scratch / "objective.safetensors", learned)
        write_json(scratch / "state.json", {"step": step, **state})
    for old in checkpoints(run)[:-2]:
        shutil.rmtree(old)


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_checkpoint(
    folder: Path, encoder: torch.nn.Module, optimizer: torch.optim.Optimizer, objective: torch.nn.Module
) -> dict[str, Any]:
    """Load encoder, optimiser and objective in place; return the state that was saved beside them."""
    encoder.load_state_dict(safetensors.torch.load_file(folder / "encoder.safetensors"))
    if objective.state_dict():
        objective.load_state_dict(safetensors.torch.load_file(folder / "objective.safetensors"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in safetensors.torch.load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_json(folder / "state.json")


def append_log(run: Path, line: dict[str, Any]) -> None:
    """Add one line to ``log.jsonl``."""
    with open(run / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(line), allow_nan=False) + "\n")


def trim_log(run: Path, step: int) -> None:
    """Drop log lines after ``step``: a resumed run writes them again. A half-written last line goes too."""
    path = run / "log.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    with whole_file(path) as scratch:
        scratch.write_text("".join(kept), encoding="utf-8")
