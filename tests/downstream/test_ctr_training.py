"""The planted vectors must raise AUC and random ones must not; the command's files; one and two processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from ams_group import run_group
from safetensors.torch import load_file

from data_tools.common.cli import run_command
from data_tools.tables.table import write_table
from downstream.data.ctr_data import load_ctr_data
from downstream.forms.make import Make
from downstream.forms.registry import FORMS
from downstream.layers.blocks import mlp
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.metrics import auc, gauc
from downstream.train import main
from downstream.training.epochs import share_buffers
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, TrainingSettings

OPTIM = OptimSettings(batch_size=512, lr=4e-3)


@pytest.fixture(scope="module")
def data(world):
    return load_ctr_data(world.folder, DataSettings(history=10))


def test_planted_vectors_help_and_random_ones_do_not(data, world):
    def test_auc(table, form="vector"):
        options = {"make": Make.Settings(epochs=2)} if "make" in form else {}
        settings = TrainingSettings(data.settings, image=ImageSettings(form=form, **options), optim=OPTIM)
        return {name: metrics["auc"] for name, metrics in fit(data, table, settings, 0).metrics["test"].items()}

    ids = test_auc(None)
    for form in FORMS:
        planted, random = test_auc(world.table, form), test_auc(world.random, form)
        assert planted["all"] > ids["all"] + 0.15
        assert planted["cold"] > 0.7
        assert random["all"] < ids["all"] + 0.02


def test_the_result_is_what_its_scores_say_and_the_seed_decides_it(data, world):
    settings = TrainingSettings(data.settings, optim=OPTIM)
    first, again, other = (fit(data, world.table, settings, seed) for seed in (0, 0, 1))
    rows = data.rows["test"]
    assert first.test_scores.dtype == np.float32 and len(first.test_scores) == len(rows)
    assert first.metrics["test"]["all"]["auc"] == auc(data.click[rows], first.test_scores)
    assert first.metrics["test"]["all"]["gauc"] == gauc(data.click[rows], first.test_scores, data.user[rows])
    assert np.array_equal(first.test_scores, again.test_scores)
    assert not np.array_equal(first.test_scores, other.test_scores)


def test_the_epoch_with_the_best_validation_is_kept(data, world):
    settings = TrainingSettings(data.settings, optim=OptimSettings(batch_size=256, epochs=3, lr=6e-3))
    result = fit(data, None, settings, 0)
    values = [epoch["valid"]["auc"] for epoch in result.epochs]
    assert result.best_epoch == int(np.argmax(values)) and len(values) == 3
    assert result.metrics["valid"]["all"]["auc"] == max(values)
    if result.best_epoch == 0:
        one = fit(data, None, TrainingSettings(data.settings, optim=OptimSettings(batch_size=256, lr=6e-3)), 0)
        assert np.array_equal(one.test_scores, result.test_scores)


@pytest.fixture
def train_command(monkeypatch):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["downstream.train", *map(str, arguments)])
        run_command(main)

    return command


def test_the_command_writes_a_run(small_world, tmp_path, train_command, capsys):
    write_table(tmp_path / "table", small_world.table.ids[5:], small_world.table.vectors[5:], {"encoder": "planted"})
    run = tmp_path / "run"
    arguments = ["--dataset", small_world.folder, "--table", tmp_path / "table", "--out", run]
    train_command(*arguments, "--data.history", "4", "--seed", "3")
    printed = capsys.readouterr().out
    assert "5 items have no vector" in printed and "GAUC" in printed
    summary = json.loads((run / "summary.json").read_text())
    assert summary["settings"]["data"]["history"] == 4 and summary["items_without_image"] == 5
    assert set(summary["metrics"]["test"]) == {"all", "warm", "cold"}
    scores = np.load(run / "test_scores.npy")
    assert scores.dtype == np.float32 and ((scores > 0) & (scores < 1)).all()
    assert all(torch.isfinite(value).all() for value in load_file(run / "model.safetensors").values())

    with pytest.raises(SystemExit, match="1"):
        train_command(*arguments)
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train_command(*arguments, "--optim.learning_rate", "1")
    assert "the nearest is" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("id_optimizer", ["adam", "sparse_adam"])
def test_two_processes_learn_what_one_learns(world, tmp_path, id_optimizer):
    write_table(tmp_path / "table", world.table.ids, world.table.vectors, {})
    scores = []
    for processes in (1, 2):
        run = tmp_path / f"run{processes}"
        # Without --multi_gpu accelerate starts one process on a CPU whatever --num_processes says.
        kind = "--multi_gpu" if processes > 1 else "--cpu"
        launch = ["accelerate.commands.launch", kind, "--num_processes", str(processes)]
        launch += ["-m", "downstream.train"]
        arguments = ["--dataset", str(world.folder), "--table", str(tmp_path / "table"), "--out", str(run)]
        # Hidden IDs are drawn by each process, so only without them are the two the same computation.
        arguments += ["--optim.unknown_rate", "0", "--model.l2", "0.3", "--optim.id_optimizer", id_optimizer]
        done = subprocess.run(
            [sys.executable, "-m", *launch, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        scores.append(np.load(run / "test_scores.npy"))
    assert not np.array_equal(*scores)  # sums in another order: there were two
    # A much stronger L2 holds embeddings at zero, where Adam magnifies rounding to steps of the learning rate.
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_what_accelerate_was_asked_for_does_not_change_a_result(data, monkeypatch):
    """The precision is no setting of a CTR run: nothing would tell the two results apart."""
    settings = TrainingSettings(data.settings, optim=OPTIM)
    found = []
    for asked in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        AcceleratorState._reset_state(reset_partial_state=True)
        found.append(fit(data, None, settings, 0).test_scores)
    AcceleratorState._reset_state(reset_partial_state=True)
    np.testing.assert_array_equal(*found)


def one_rank_averages(rank, processes):
    torch.manual_seed(rank)
    layers = mlp([3, 4], 1, "dice")
    layers(torch.randn(50, 3))
    own = layers[1].mean.clone()
    share_buffers(layers)
    everyones = [torch.empty(4) for _ in range(processes)]
    torch.distributed.all_gather(everyones, layers[1].mean)
    assert torch.equal(everyones[0], everyones[1])
    assert torch.equal(own, layers[1].mean) == (rank == 0)


def test_all_processes_score_with_the_first_ones_averages():
    run_group(one_rank_averages, 2)
