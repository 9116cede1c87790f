"""The precision that is fastest here."""

from __future__ import annotations

import math
import os
import time

import torch

from pretrain.encoder.image_encoder import ImageEncoder

LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # what accelerate launch says, "no" where nothing is asked for


def choose_precision(encoder: ImageEncoder, wanted: str, image_size: int) -> str:
    """fp32, bf16 or fp16; "auto" is what accelerate launch was asked for, or, on a CPU, times steps of the bare encoder
    in fp32 and in bf16."""
    if wanted == "auto" and (asked := os.environ.get(LAUNCHED)) in ("bf16", "fp16"):
        return asked
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


def precision_note(used: str) -> str:
    """What is worth saying where accelerate launch was asked for another precision than the one used."""
    asked = os.environ.get(LAUNCHED, "no")
    if asked in ("no", used):
        return ""
    return (
        f"note: accelerate was asked for {asked}, but {used} is used: --optim.precision decides (auto takes bf16, fp16)"
    )
