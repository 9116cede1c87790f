"""Initial weights from a local file of tensors."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from open_clip.model import convert_to_custom_text_state_dict
from torch import nn

from data_tools.common.errors import UserError


def load_weights(module: nn.Module, file: str | Path, prefix: str = "") -> None:
    """Load a state dict of tensors; a classifier that the module lacks is ignored, anything else must fit.

    Parameters
    ----------
    module : nn.Module
    file : path
        .safetensors, or a .pth that holds tensors only.
    prefix : str
        "visual." or "text.": the file may also hold a whole open_clip model, of which this part is taken.

    Raises
    ------
    UserError
        If the file is missing, holds anything but tensors, or lacks or exceeds the module's parameters.
    """
    try:
        if Path(file).suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no weights at {file}") from None
    except Exception as error:
        raise UserError(f"{file} cannot be read as a file of tensors: {error}") from None
    if prefix and any(name.startswith("visual.") for name in state):
        state = convert_to_custom_text_state_dict(state)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    classifiers = ("classifier.", "head.fc.", "fc.", "head.")
    wanted = module.state_dict()
    state = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(classifiers)}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or extra or wrong:
        raise UserError(
            f"{file} does not fit the model: {len(missing)} parameters missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}, strict=False)
