"""Encoders of run folders: loaded, or mixed of initial and trained weights, with what a table says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from data_tools.common.errors import UserError
from data_tools.common.files import digest, read_json, refuse_url
from data_tools.common.launch import launch
from data_tools.common.plugins import in_use
from data_tools.common.tensors import read_tensors
from pretrain.encoder.image_encoder import ImageEncoder, build_encoder
from pretrain.evaluation.page_auc import requests_of
from pretrain.evaluation.wise_ft import choose_factor, interpolate
from pretrain.settings import Encoder
from pretrain.training.runs import checkpoints, read_settings
from pretrain.training.seen import seen_before_training, seen_by_run

KEPT = {"trained": "best", "initial": "initial"}
# What "wise_ft" may be: a factor, "validation", or None for weights as they are.
Factor = float | Literal["validation"] | None


def check_wise_ft(wise_ft: Factor, weights: str, run: str | None) -> None:
    """Check the setting ``wise_ft`` against those it depends on.

    Raises
    ------
    UserError
        If it is neither a factor nor "validation", or there are no trained weights of a run.
    """
    if not (wise_ft in (None, "validation") or (isinstance(wise_ft, float | int) and 0 <= wise_ft <= 1)):
        raise UserError(f"--wise_ft is {wise_ft!r}; must be a number from 0 to 1, or validation")
    if wise_ft is not None and (not run or weights != "trained"):
        raise UserError("--wise_ft averages the initial and the trained weights of a --run: it needs --weights trained")


def load_weights_of(encoder: ImageEncoder, run: Path, weights: str) -> None:
    """Load a run's "trained", "last" or "initial" weights into its encoder.

    Raises
    ------
    UserError
        If the run has no such weights.
    """
    file = weights_file(run, weights)
    if not file.exists():
        raise UserError(f"{file} does not exist; train first: {launch('pretrain.train')} --out {run}")
    encoder.load_state_dict(read_tensors(file))


def weights_file(run: Path, weights: str) -> Path:
    """The file of a run's "trained" (best on validation), "last" (latest checkpoint's) or "initial" weights."""
    if weights != "last":
        return run / f"{KEPT[weights]}.safetensors"
    folder = next(reversed(checkpoints(run)), run / "checkpoints")
    return folder / "encoder.safetensors"


def load_run_encoder(
    run: Path, weights: str = "trained", *, wise_ft: Factor = None, data: str | None = None
) -> tuple[ImageEncoder, Encoder, dict[str, Any]]:
    """A run's encoder, in evaluation mode.

    Parameters
    ----------
    run : path
        Run folder.
    weights : str
        "trained", "last" or "initial".
    wise_ft : float, "validation" or None
        See ``pretrain.export``.
    data : str, optional
        Shards whose validation split chooses the factor.

    Returns
    -------
    encoder : ImageEncoder
    named : Encoder
        Its settings.
    record : dict
        What ``table.json`` says of it.

    Raises
    ------
    UserError
        If the run has no such weights.
    """
    refuse_url(run, "a run")
    named = read_settings(run).encoder
    encoder = build_encoder(named, data, initial_weights=False)  # which may be gone
    load_weights_of(encoder, run, weights)
    record = {
        "encoder": in_use(named),
        "weights": weights,
        "checkpoint": digest([weights_file(run, weights)]),
        "run": str(run),
        "saw_until": seen_by_run(read_json(run / "run.json"), weights),
    }
    if wise_ft is not None:
        record |= average_weights(encoder, run, wise_ft, data)
    return encoder.eval(), named, record


def average_weights(encoder: ImageEncoder, run: Path, wise_ft: Factor, data: str | None) -> dict[str, Any]:
    """Load the weights between the run's initial and trained ones (WiSE-FT); returns what ``table.json`` says of it."""
    files = [weights_file(run, weights) for weights in ("initial", "trained")]
    initial, tuned = (read_tensors(file) for file in files)
    chosen: list[Any] = [wise_ft, None]
    if wise_ft == "validation":
        state, settings = PartialState(), read_settings(run)
        if state.is_main_process:
            requests, choose_on = requests_of(settings, "valid", shards=data), settings.evaluation.choose_on
            encoder.to(state.device)
            chosen = list(choose_factor(encoder, initial, tuned, requests=requests, choose_on=choose_on))
        chosen = broadcast_object_list(chosen)
    factor, curve = chosen
    encoder.load_state_dict(interpolate(initial, tuned, factor))
    return {"checkpoint": digest(files), "wise_ft": {"factor": factor, "validation": curve}}


def preprocessing(encoder: ImageEncoder, image_size: int) -> dict[str, Any]:
    """How an item becomes the tower's input, for ``table.json``."""
    return encoder.family.preprocessing(image_size, encoder.mean.flatten().tolist(), encoder.std.flatten().tolist())


def generic_encoder(named: Encoder) -> tuple[ImageEncoder, dict[str, Any]]:
    """The encoder that the settings name, in evaluation mode, and what ``table.json`` says of it."""
    record = {
        "encoder": in_use(named),
        "weights": "as named",
        "checkpoint": digest([named.weights]) if named.weights else None,
        "run": None,
        "saw_until": seen_before_training(named),
    }
    return build_encoder(named).eval(), record
