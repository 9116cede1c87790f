"""A new day at the image server: new images are appended, and DICM continues from yesterday's weights."""

import json
import sys

import numpy as np
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file

from data_tools.common.cli import run_command
from downstream.ams.feature_store import append, create_store
from downstream.train import main


def train(monkeypatch, out, *arguments):
    """Weights and summary of a run of downstream.train over the image server."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    given = ["--out", out, "--server.strategy", "ams", "--data.history", "6", "--optim.batch_size", "128", *arguments]
    monkeypatch.setattr(sys, "argv", ["downstream.train", *map(str, given)])
    run_command(main)
    return load_file(out / "model.safetensors"), json.loads((out / "summary.json").read_text())


def test_a_new_day_appends_images_and_starts_from_yesterday(small_world, tmp_path, monkeypatch):
    ids, vectors = small_world.table.ids, small_world.table.vectors
    store = append(create_store(tmp_path / "store", vectors.shape[1:], vectors.dtype, 2), [(ids[:30], vectors[:30])])
    common = ["--dataset", small_world.folder, "--table", store.folder]
    first, summary = train(monkeypatch, tmp_path / "first", *common, "--data.train_until", "0.5")
    assert summary["items_without_image"] == len(ids) - 30

    append(store, [(ids[30:], vectors[30:])])
    # A learning rate of next to nothing: what the second day holds is what it started with.
    second_day = ["--data.train_from", "0.5", "--warm_up", tmp_path / "first", "--optim.lr", "1e-12"]
    second, summary = train(monkeypatch, tmp_path / "second", *common, *second_day)
    assert summary["items_without_image"] == 0
    images = [name for name in first if name.startswith("images.")]
    assert any("centre" in name for name in images) and any("layers" in name for name in images)
    for name in [*images, *(name for name in first if name.startswith("mlp."))]:
        np.testing.assert_allclose(second[name], first[name], atol=1e-6, err_msg=name)
    assert not np.allclose(second["ids.user.weight"], first["ids.user.weight"])  # partial: IDs begin again
