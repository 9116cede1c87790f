"""The precision that is fastest here."""

from __future__ import annotations

import math
import time

import torch

from pretrain.encoder.image_encoder import ImageEncoder


def choose_precision(encoder: ImageEncoder, wanted: str, image_size: int) -> str:
    """fp32, bf16 or fp16; "auto" on a CPU times steps of the bare encoder in fp32 and in bf16."""
    if wanted == "auto" and torch.cuda.is_available():
        wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "auto":
        images = encoder.family.example(image_size, 64)
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
