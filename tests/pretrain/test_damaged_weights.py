"""Files of a run that were damaged or cut short: each is named, with what to do."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.common.cli import UserError
from data_tools.common.tensors import read_tensors, write_tensors
from pretrain.encoder.image_encoder import build_encoder
from pretrain.evaluation.saved_encoder import load_run_encoder
from pretrain.settings import Encoder
from pretrain.training import runs
from tests.pretrain.run_helpers import run, settings


def flip(path, share=0.5):
    """Flip one bit of a file, some share of its length from its start."""
    whole = bytearray(path.read_bytes())
    whole[int(share * len(whole))] ^= 4
    path.write_bytes(whole)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of a finished run, and the settings that made it."""
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.mark.parametrize("weights, file", [("trained", "best"), ("initial", "initial"), ("last", "encoder")])
def test_damaged_weights_of_a_run_are_named(weights, file, copy):
    load_run_encoder(copy, weights)
    path = next(copy.rglob(f"step-000006/{file}.safetensors"), copy / f"{file}.safetensors")
    for share in np.linspace(0.01, 0.99, 12):
        flip(path, share)
        with pytest.raises(UserError, match=rf"{file}.safetensors (has digest|is damaged).*again"):
            load_run_encoder(copy, weights)
        flip(path, share)
    load_run_encoder(copy, weights)
    os.truncate(path, 5000)
    with pytest.raises(UserError, match=rf"{file}.safetensors is damaged, or cut to 5,000 bytes: .*train again"):
        load_run_encoder(copy, weights)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "missing"])
@pytest.mark.parametrize("file", ["encoder", "optimizer"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_continues(file, damage, copy, finished, tiny_world):
    last, path = runs.checkpoints(copy)[-1], runs.checkpoints(copy)[-1] / f"{file}.safetensors"
    whole = {name: tensor.clone() for name, tensor in read_tensors(path).items()}  # not those of the file itself
    if damage == "flipped":
        flip(path)
    elif damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    resumed = [*settings(tiny_world / "shards", copy), "--resume"]
    with pytest.raises(UserError, match=rf"{file}.safetensors (is|has|does) .*; remove {last}, and --resume continues"):
        run(resumed)
    if damage == "cut":
        shutil.rmtree(last)
        run(resumed)
        again = read_tensors(path)
        assert all((again[name] == whole[name]).all() for name in whole)


def test_a_checkpoint_of_another_version_is_named(copy, tiny_world):
    optimizer = runs.checkpoints(copy)[-1] / "optimizer.safetensors"
    write_tensors(optimizer, read_tensors(optimizer))  # without the state of the run
    with pytest.raises(UserError, match=r"step-000006 was made by another version: train again"):
        run([*settings(tiny_world / "shards", copy), "--resume"])


def test_damaged_weights_to_start_from_are_named(copy):
    flip(copy / "best.safetensors", 0.9)
    start = Encoder(dimensions=16, image_size=32, weights=str(Path(copy, "best.safetensors")))
    with pytest.raises(UserError, match=r"best.safetensors has digest .* promises .*; copy it again"):
        build_encoder(start)
