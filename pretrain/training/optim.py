"""Optimiser, learning-rate schedule, precision and threads."""

from __future__ import annotations

import math
import os
import time

import torch
from torch import nn

from pretrain.encoder.depth import layer_groups
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
    groups = layer_groups(encoder.tower, stages=False)
    last = max(groups.values())
    return {f"tower.{name}": decay ** (last - group) for name, group in groups.items()}


def use_all_cores() -> None:
    """On a CPU, share the cores among the machine's processes: accelerate's launcher leaves one thread to each."""
    if not torch.cuda.is_available() and hasattr(os, "sched_getaffinity"):
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def choose_precision(encoder: ImageEncoder, wanted: str, image_size: int) -> str:
    """fp32, bf16 or fp16; "auto" on a CPU times steps of the bare encoder in fp32 and in bf16."""
    if wanted == "auto" and torch.cuda.is_available():
        wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "auto":
        images = torch.zeros(64, 3, image_size, image_size, dtype=torch.uint8)
        seconds = {"fp32": math.inf, "bf16": math.inf}
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        for precision in ("fp32", "bf16") * 3:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = encoder(images).float().square().mean()
            loss.backward()
            seconds[precision] = min(seconds[precision], time.perf_counter() - started)
        encoder.zero_grad()
        encoder.load_state_dict(before)  # the trial has moved batch norm's statistics
        wanted = min(seconds, key=seconds.get)
    return wanted
