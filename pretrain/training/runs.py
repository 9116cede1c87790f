"""A run folder: settings and provenance, checkpoints that appear whole or not at all, best weights.

``run.json``                  settings, number of processes, versions, git state, machine, what it ``saw`` of the log
``initial.safetensors``       the encoder before training
``best.safetensors``          the encoder at its best validation so far, with ``best.json``
``checkpoints/step-NNNNNN``   encoder, optimiser with the state of the run, what the objective learns (safetensors); the
                              newest two are kept
``log.jsonl``                 one line a log line; ``tensorboard/`` the same as events
``stopped.json``              where the collapse watch stopped the run, and its reason
``summary.json``              written at the end, with ``compare.yaml``, the configuration of the run's comparison
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.common import provenance
from data_tools.common.cli import settings_from
from data_tools.common.errors import UserError
from data_tools.common.files import finite, read_json, read_json_lines, refuse_url, whole_file, whole_folder, write_json
from data_tools.common.places import check_folder
from data_tools.common.storage import MANIFESTS
from data_tools.common.tensors import read_described, read_tensors, write_tensors
from data_tools.tables.seen import latest
from pretrain.evaluation.page_auc import SLICES
from pretrain.settings import Settings
from pretrain.training.seen import seen_in_training

STOPPED = "stopped.json"
TRAIN_AGAIN = "train again, in another folder"


def read_settings(run: Path) -> Settings:
    """The settings a run was made with; those younger than the run are at their defaults.

    Raises
    ------
    UserError
        If there is no run, or another version made it.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{run} is not a run of pretrain.train (no run.json); name the folder of one")
    made = read_json(run / "run.json").get("settings")
    if not isinstance(made, dict):
        raise UserError(f"{run / 'run.json'} lacks the settings of the run; copy it again, or train again")
    try:
        return settings_from(Settings, made, "settings")
    except UserError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{run / 'run.json'} was made by another version ({reason}): {TRAIN_AGAIN}") from None


def read_summary(run: Path) -> dict[str, Any]:
    """What a finished run says of itself; see ``pretrain.training.summary``."""
    summary = read_json(run / "summary.json")
    if lacking := sorted(SLICES.keys() - summary.get("page_auc", {}).keys()):
        raise UserError(
            f"{run / 'summary.json'} was made by another version (it has no page AUC of {' and '.join(lacking)} "
            f"items): {TRAIN_AGAIN}"
        )
    return summary


def read_log(run: Path) -> list[dict[str, Any]]:
    """Log lines of a run, oldest first."""
    return read_json_lines(run / "log.jsonl")


def open_run(settings: Settings, wait: Callable[[], None]) -> Path | None:
    """The checkpoint to resume from; None for a new run.

    Parameters
    ----------
    settings : Settings
    wait : callable
        Returns once all processes have called it.

    Raises
    ------
    UserError
        If the folder already contains a run and ``resume`` is off, or the run was made with other settings.
    """
    refuse_url(settings.out, "a run")
    run = Path(settings.out)
    check_folder(run)
    if held := next((name for name in MANIFESTS if (run / name).exists()), None):
        raise UserError(f"{run} is not the folder of a run: it has {held}; name another one with --out")
    made = (run / "run.json").exists()
    found = checkpoints(run)
    wait()
    if made and not settings.resume:
        raise UserError(f"{run} already contains a run; continue with --resume, or name another folder with --out")
    if made:
        before = read_settings(run)
        # Batches depend neither on the number of loader processes nor on what they cache.
        free = {name: getattr(settings.batch, name) for name in ("workers", "cache_mb")}
        before = replace(before, batch=replace(before.batch, **free))
        for section in ("encoder", "objective", "batch", "seed"):
            then, now = getattr(before, section), getattr(settings, section)
            if then != now:
                raise UserError(f"{run} was trained with {section} {then}, not {now}; resume with the same settings")
    wait()
    return found[-1] if found else None


def start_run(settings: Settings, encoder: torch.nn.Module, processes: int) -> None:
    """Record what is about to be trained, and the encoder before training."""
    run = Path(settings.out)
    made_by = {"commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine()}
    made = {"settings": asdict(settings), "saw": seen_in_training(settings), "processes": processes, **made_by}
    write_json(run / "run.json", made)
    write_tensors(run / "initial.safetensors", encoder.state_dict())
    (run / "best.json").unlink(missing_ok=True)


def continue_run(settings: Settings) -> None:
    """Record what a resumed run sees of shards that reach further than those it began with."""
    path = Path(settings.out) / "run.json"
    made, now = read_json(path), seen_in_training(settings)
    if "saw" in made:
        write_json(path, made | {"saw": made["saw"] | {"until": latest([made["saw"]["until"], now["until"]])}})


def save_checkpoint(
    run: Path,
    step: int,
    *,
    encoder: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: torch.nn.Module,
    state: dict[str, Any],
) -> None:
    """Write ``checkpoints/step-<step>`` whole, then remove all but the newest two.

    ``state`` is what JSON can hold of the run's state: it is given back by :func:`load_checkpoint`.
    """
    folder = run / "checkpoints" / f"step-{step:06d}"
    slots = optimizer.state_dict()["state"]
    flat = {f"{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
    with whole_folder(folder, overwrite=True) as scratch:
        write_tensors(scratch / "encoder.safetensors", encoder.state_dict())
        write_tensors(scratch / "optimizer.safetensors", flat, {"state": json.dumps({"step": step, **state})})
        if learned := objective.state_dict():
            write_tensors(scratch / "objective.safetensors", learned)
    for old in checkpoints(run)[:-2]:
        shutil.rmtree(old)


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    # A step of seven digits sorts before one of six.
    return sorted((run / "checkpoints").glob("step-*"), key=lambda folder: (len(folder.name), folder.name))


def load_checkpoint(
    folder: Path, encoder: torch.nn.Module, optimizer: torch.optim.Optimizer, objective: torch.nn.Module
) -> dict[str, Any]:
    """Load encoder, optimiser and objective in place; return the state that was saved with them.

    Raises
    ------
    UserError
        If a file is missing, damaged, or of another version.
    """
    remedy = f"remove {folder}, and --resume continues from the checkpoint before it, or from the start"
    moments, about = read_described(folder / "optimizer.safetensors", remedy)
    if "state" not in about:
        raise UserError(f"{folder} was made by another version: {TRAIN_AGAIN}")
    encoder.load_state_dict(read_tensors(folder / "encoder.safetensors", remedy))
    if objective.state_dict():
        objective.load_state_dict(read_tensors(folder / "objective.safetensors", remedy))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(about["state"])


def append_log(run: Path, line: dict[str, Any]) -> None:
    """Add one line to ``log.jsonl``."""
    with open(run / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(line), allow_nan=False) + "\n")


def trim_log(run: Path, step: int) -> None:
    """Drop log lines after ``step``: a resumed run writes them again. A half-written last line is dropped, too."""
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


def save_bad_batch(run: Path, step: int, items: Tensor, losses: dict[str, float]) -> Path:
    """Save the items of a batch whose loss is not finite, and its terms; returns the file."""
    path = run / f"not-finite-step-{step}.json"
    write_json(path, {"step": step, "losses": losses, "items": items.tolist()})
    return path
