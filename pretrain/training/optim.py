"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.settings import Optim


def schedule(step: int, optim: Optim) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then cosine to zero."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(encoder: ImageEncoder, optim: Optim, objective: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW; vectors (norms and biases) have no weight decay.

    A group's learning rate is the schedule's times its ``scale``: layer_decay to the power of the layers between it and
    the tower's last one. The linear layer and what the objective learns have scale 1.
    """
    parameters = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    scales = layer_scales(encoder, optim.layer_decay)
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        by_scale.setdefault(scales.get(name, 1.0), []).append(parameter)
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad] if objective else []
    groups = []
    for scale, members in [*by_scale.items(), (1.0, learned)]:
        decayed = [parameter for parameter in members if parameter.ndim > 1]
        vectors = [parameter for parameter in members if parameter.ndim <= 1]
        for part, decay in ((decayed, optim.weight_decay), (vectors, 0.0)):
            if part:
                groups.append({"params": part, "weight_decay": decay, "scale": scale})
    return torch.optim.AdamW(groups, lr=optim.lr)


def layer_scales(encoder: ImageEncoder, decay: float) -> dict[str, float]:
    """Factor of the learning rate of each parameter of the tower, by its name in the encoder; nothing for decay 1."""
    if decay == 1:
        return {}
    groups = encoder.layer_groups(stages=False)
    last = max(groups.values())
    return {f"tower.{name}": decay ** (last - group) for name, group in groups.items()}
