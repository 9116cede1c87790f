"""Tensors of a run, read from its files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_tools.common.errors import UserError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, by name.

    Raises
    ------
    UserError
        If the file is missing, cut or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged: {error}; copy it again, or train again") from None
