"""The arguments that build a timm model for pictures of some size, for every package that builds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models import get_pretrained_cfg

SIZED_BY_USER = ("img_size", "dynamic_img_size")


def timm_arguments(name: str, image_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments``, with ``img_size`` for a model whose layers depend on the size of its input (ViT, Swin, LeViT).

    timm resamples the position embeddings of weights from a hub to that size. Where the arguments say a size, it stays.

    Parameters
    ----------
    name : str
        Of the timm model.
    image_size : int
        Side of the pictures in pixels.
    arguments : mapping
        Of the model's constructor, as the user gives them.
    """
    made = dict(arguments)
    known = get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if known and known.fixed_input_size and known.input_size[-1] != image_size and not made.keys() & {*SIZED_BY_USER}:
        made["img_size"] = image_size
    return made
