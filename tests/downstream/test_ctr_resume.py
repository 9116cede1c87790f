"""Stopped trainings continue with the same bits; early stopping, decaying learning rates, a loss that is not finite."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_tools.common.cli import UserError, progress_bar
from data_tools.tables.table import write_table
from downstream.data.ctr_data import load_ctr_data
from downstream.forms.make import Make
from downstream.layers.click_model import ClickModel
from downstream.settings import DataSettings, OptimSettings
from downstream.training import epochs as loop
from downstream.training.checkpoints import Checkpoints
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


def settings(data, **optim):
    model = ModelSettings("din", activation="dice", l2=0.01)
    return TrainingSettings(data.settings, model, optim=OptimSettings(**{"batch_size": 128, "epochs": 2, **optim}))


@pytest.fixture(scope="module")
def whole(data, small_world):
    return fit(data, small_world.table, settings(data), seed=1)


class Stop(Exception):
    """Someone pulls the plug."""


def stop_after(monkeypatch, steps):
    """Raise Stop once a training has done so many steps."""
    done = []

    def count(self, lr):
        done.append(lr)
        if len(done) == steps:
            raise Stop

    monkeypatch.setattr(ClickModel, "after_step", count)


# 14 steps an epoch: before the first checkpoint, at one, between two, in the second epoch.
@pytest.mark.parametrize("steps", [3, 10, 23])
def test_an_interrupted_training_continues_bit_for_bit(data, small_world, whole, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, steps)
        fit(data, small_world.table, settings(data), 1, checkpoints=Checkpoints(tmp_path, 4))
    torch.manual_seed(99)
    again = fit(data, small_world.table, settings(data), 1, checkpoints=Checkpoints(tmp_path, 4))
    assert np.array_equal(again.test_scores, whole.test_scores)
    assert all(torch.equal(again.state[name], weight) for name, weight in whole.state.items())
    assert [epoch["loss"] for epoch in again.epochs] == [epoch["loss"] for epoch in whole.epochs]
    assert again.metrics == whole.metrics and again.best_epoch == whole.best_epoch


@pytest.mark.parametrize("steps", [10, 22])
def test_a_form_that_trains_first_is_resumed_too(data, small_world, tmp_path, monkeypatch, steps):
    """MAKE trains a model of its own first, 14 steps here: one stop in each training."""
    make = replace(settings(data), image=ImageSettings(form="make", make=Make.Settings(epochs=1)))
    whole = fit(data, small_world.table, make, seed=1)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, steps)
        fit(data, small_world.table, make, 1, checkpoints=Checkpoints(tmp_path, 4))
    assert len(list(tmp_path.iterdir())) == 1 + (steps > 14)
    again = fit(data, small_world.table, make, 1, checkpoints=Checkpoints(tmp_path, 4))
    assert np.array_equal(again.test_scores, whole.test_scores)
    assert all(torch.equal(again.state[name], weight) for name, weight in whole.state.items())


def test_a_resumed_training_does_only_what_is_left(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, 10)
        fit(data, None, settings(data), 1, checkpoints=Checkpoints(tmp_path, 4))
    rates = []
    monkeypatch.setattr(ClickModel, "after_step", lambda self, lr: rates.append(lr))
    with progress_bar(shown=False) as progress:
        result = fit(data, None, settings(data), 1, progress=progress, checkpoints=Checkpoints(tmp_path, 4))
    steps = -(-len(data.rows["train"]) // 128)
    assert len(rates) == 2 * steps - 8 and len(result.epochs) == 2


def test_the_learning_rate_decays_by_steps(data, monkeypatch):
    rates = []
    monkeypatch.setattr(ClickModel, "after_step", lambda self, lr: rates.append(lr))
    fit(data, None, settings(data, lr=0.01, lr_decay=0.5, lr_decay_steps=10), seed=0)
    assert rates == [0.01 * 0.5 ** (step // 10) for step in range(len(rates))] and len(rates) > 20


@pytest.mark.parametrize(("patience", "epochs", "best"), [(1, 3, 1), (2, 4, 1), (3, 6, 4), (None, 6, 4)])
def test_training_stops_after_epochs_that_are_no_better(data, monkeypatch, patience, epochs, best):
    values = iter([0.6, 0.7, 0.65, 0.69, 0.8, 0.7])
    monkeypatch.setattr(loop, "split_metrics", lambda data, split, scores: {"all": {"auc": next(values, None)}})
    result = fit(data, None, settings(data, epochs=6, patience=patience, batch_size=512), seed=0)
    assert (len(result.epochs), result.best_epoch) == (epochs, best)


def test_a_loss_that_is_not_finite_is_named(data, monkeypatch):
    monkeypatch.setattr(ClickModel, "loss", lambda self, batch: self(batch).sum() * float("nan"))
    with pytest.raises(UserError, match="the loss became nan by step"):
        fit(data, None, settings(data), seed=0)


def test_wrong_settings_are_named():
    for wrong in ({"lr_decay": 0.0}, {"lr_decay_steps": 0}, {"patience": -1}, {"epochs": 0}):
        with pytest.raises(UserError, match="must be >"):
            replace(OptimSettings(), **wrong)


@pytest.mark.slow
def test_a_killed_command_continues_bit_for_bit(world, tmp_path):
    write_table(tmp_path / "table", world.table.ids, world.table.vectors, {})
    command = [sys.executable, "-m", "downstream.train", "--dataset", world.folder, "--table", tmp_path / "table"]
    command = [*map(str, command), "--optim.epochs", "2", "--optim.batch_size", "128", "--checkpoint_every", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], env=environment)
    checkpoint = tmp_path / ".killed.partial" / "training-0.safetensors"
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert checkpoint.exists() and not (tmp_path / "killed").exists()
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, env=environment, capture_output=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert np.array_equal(*(np.load(tmp_path / name / "test_scores.npy") for name in ("whole", "killed")))
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "model.safetensors",
        "summary.json",
        "test_scores.npy",
        "vocabulary.parquet",
    ]
