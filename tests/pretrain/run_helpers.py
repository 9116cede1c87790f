"""Runs of seconds, for several files of tests."""

import os
from pathlib import Path

from data_tools.common.cli import parse_settings
from pretrain.settings import Settings
from pretrain.train import train

ROOT = Path(__file__).parents[2]


def settings(data, out, *more):
    """Settings of a run of seconds."""
    small = [
        "--data", str(data), "--out", str(out), "--encoder.image_size", "32", "--encoder.dimensions", "16",
        "--batch.rows", "16", "--batch.history", "5", "--batch.workers", "0", "--optim.steps", "6",
        "--optim.warmup", "2", "--optim.precision", "fp32", "--log_every", "2", "--checkpoint_every", "2",
        "--evaluation.every", "4",
    ]  # fmt: skip
    return [*small, *map(str, more)]


def run(arguments):
    return train(parse_settings(Settings, "", arguments))


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
