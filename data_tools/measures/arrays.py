"""Which library an array is of, for measures that take numpy arrays and torch tensors alike."""

from __future__ import annotations

from types import ModuleType
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def library(array: np.ndarray | torch.Tensor) -> ModuleType:
    """``torch`` for a tensor, else ``numpy``."""
    return torch if isinstance(array, torch.Tensor) else np
