"""Threads, and the precision that is fastest here."""

from __future__ import annotations

import math
import os
import time

import torch

from pretrain.encoder.image_encoder import ImageEncoder

# Convolutions that oneDNN keeps compiled. Each is for one number of pictures, which differs from batch to batch, and it
# keeps 1,024: 15 numbers of a small encoder, whose steps then spend a tenth of a core's time, on one core whatever
# their number, on compiling what the cache has just lost.
COMPILED = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192"


def use_all_cores() -> None:
    """On a CPU, share the cores among the machine's processes: accelerate's launcher leaves one thread to each.

    Compiled convolutions are kept for the next batch with as many pictures, if this comes before the first convolution.
    """
    os.environ.setdefault(*COMPILED)
    if not torch.cuda.is_available() and hasattr(os, "sched_getaffinity"):
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


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
