"""Initial weights from a local file of tensors, in the forms that people have them."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.model import convert_to_custom_text_state_dict
from timm.models import clean_state_dict
from torch import Tensor, nn

from data_tools.common.errors import UserError
from data_tools.common.tensors import read_tensors
from pretrain.encoder.sizes import first_line

State = dict[str, Tensor]
# Where checkpoints of trainings keep the model, in the order in which timm looks.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "weights", "params")
CLASSIFIERS = ("classifier.", "head.fc.", "fc.", "head.", "head_dist.")
NO_WEIGHTS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file itself; run `git lfs pull` where it was cloned",
    b"<!doctype html": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
}


def load_weights(
    module: nn.Module, file: str | Path, prefix: str = "", fit: Callable[[State, nn.Module], State] | None = None
) -> None:
    """Load a state dict of tensors; a classifier that the module lacks is ignored, anything else must fit.

    The file may be a checkpoint that holds the state dict below a usual key (averaged weights come first, as in timm),
    and its names may have a common prefix such as ``module.``.

    Parameters
    ----------
    module : nn.Module
    file : path
        .safetensors, or a .pth that holds tensors only.
    prefix : str
        "visual." or "text.": the file may also hold a whole open_clip model, of which this part is taken.
    fit : callable, optional
        Of (state, module): brings weights of another picture size to the module's.

    Raises
    ------
    UserError
        If the file is missing, holds anything but tensors, or lacks or exceeds the module's parameters.
    """
    state = clean_state_dict(_unwrapped(_read(Path(file)), file))
    if prefix and any(name.startswith("visual.") for name in state):
        state = convert_to_custom_text_state_dict(state)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    state = _below_prefix(state, wanted, file)
    if fit:
        state = fit(state, module)
    state = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(CLASSIFIERS)}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or extra or wrong:
        shapes = [f"{name} {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}" for name in wrong[:3]]
        raise UserError(
            f"{file} does not fit the model: {len(missing)} parameters missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(wrong)} of another shape {shapes}"
        )
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}, strict=False)


def _read(file: Path) -> Any:
    """What a file of weights holds; safetensors are known by their beginning, whatever the ending."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except FileNotFoundError:
        raise UserError(f"no weights at {file}") from None
    except IsADirectoryError:
        held = sorted(one.name for one in file.iterdir() if one.suffix in (".safetensors", ".bin", ".pt", ".pth"))
        found = f"; it holds {', '.join(held[:5])}" if held else ""
        raise UserError(f"{file} is a folder; name a file of weights{found}") from None
    for begins, what in NO_WEIGHTS.items():
        if head.lower().startswith(begins):
            raise UserError(f"{file} is {what}")
    try:
        if head[8:9] == b"{":
            return read_tensors(file, "copy it again")
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings in checkpoints of timm's training
            return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        found = next(iter(re.findall(r"GLOBAL (\S+)", str(error))), "code")
        raise UserError(
            f"{file} cannot be read as a file of tensors: it contains other objects ({found}), and code in files is "
            "never run. If you trust its origin, save only its tensors: torch.save(model.state_dict(), file)"
        ) from None
    except Exception as error:  # broken files raise nearly anything
        raise UserError(f"{file} cannot be read as a file of tensors: {first_line(error)}") from None


def _is_state(found: Any) -> bool:
    return isinstance(found, Mapping) and any(isinstance(one, Tensor) for one in found.values())


def _unwrapped(found: Any, file: str | Path) -> State:
    """The tensors of a state dict, or of the one that a checkpoint holds."""
    if not isinstance(found, Mapping):
        raise UserError(f"{file} holds a {type(found).__name__}; must be a state dict of tensors")
    inside = [name for name, one in found.items() if _is_state(one)]
    known = [name for name in WRAPPERS if name in inside]
    if known or len(inside) == 1:
        return _unwrapped(found[(known or inside)[0]], file)
    if inside:
        raise UserError(
            f"{file} holds several state dicts: {', '.join(map(str, inside))}; save the one to use to a separate "
            f"file: torch.save(torch.load({str(file)!r})[{inside[0]!r}], 'weights.pth')"
        )
    if not _is_state(found):
        raise UserError(f"{file} holds no tensors; found: {', '.join(map(str, list(found)[:5])) or 'nothing'}")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _below_prefix(state: State, wanted: Mapping[str, Tensor], file: str | Path) -> State:
    """The part of a state dict whose names without a common prefix are the module's, such as ``backbone.``."""
    if not wanted or wanted.keys() & state.keys():
        return state
    ends = {name.partition(".")[0] for name in wanted}
    tried = {"".join(name.partition(f".{end}.")[0]) + "." for name in state for end in ends if f".{end}." in name}
    found = {one: {name.removeprefix(one) for name in state if name.startswith(one)} for one in tried}
    whole = sorted(one for one, names in found.items() if 2 * len(names & wanted.keys()) > len(wanted))
    if len(whole) > 1:
        raise UserError(
            f"{file} contains the model several times, under {', '.join(whole)}; save the one to use to a separate file"
        )
    return {name.removeprefix(one): state[name] for one in whole for name in state if name.startswith(one)} or state
