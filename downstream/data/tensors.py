"""Batches of arrays as batches of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.data.ctr_data import Batch


def tensors(batch: Batch, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The arrays of a batch as tensors on a device; on the CPU they share the arrays' memory."""
    return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}
