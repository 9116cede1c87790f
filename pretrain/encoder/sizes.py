"""Sizes of pictures: which a model works at, and which to name where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from data_tools.common.errors import UserError


def near_sizes(image_size: int, step: int, own: int) -> list[int]:
    """The multiples of ``step`` on both sides of ``image_size``, and the model's ``own`` size last."""
    below = image_size // step * step
    return [size for size in dict.fromkeys((below, below + step, own)) if size > 0 and size != image_size]


@torch.no_grad()
def trial(tower: nn.Module, example: Tensor) -> Any:
    """What a tower makes of an example as a family gives it; pictures are taken as numbers, not normalised."""
    return tower.eval()(example.float() if example.dtype == torch.uint8 else example)


def working_size(sizes: list[int], build: Callable[[int], nn.Module], example: Callable[[int], Tensor]) -> int | None:
    """The first of some sizes at which a model can be built and gives one vector a picture."""
    for size in sizes:
        try:
            if trial(build(size), example(size)).ndim == 2:
                return size
        except Exception:  # a model that does not fit raises nearly anything
            continue
    return None


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), "").rstrip(" .") or type(error).__name__


def shape_of(found: Any) -> str:
    """The form of what a model gives, in words."""
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape[1:])} a picture"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, list | tuple) else "")


def refuse_shape(found: Any, name: str, hint: str) -> None:
    """Raise a UserError unless a tower gave one vector a picture, (N, F).

    Raises
    ------
    UserError
        With the form that was found, and the hint.
    """
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise UserError(f"{name} gives {shape_of(found)}; one vector a picture is needed{hint}")
