"""Runs that were stopped and continued, and those of other versions."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import read_described
from pretrain.training import runs
from tests.pretrain.run_helpers import ROOT, one_thread, run, settings


def test_killed_and_resumed_ends_with_the_same_bits(finished, tiny_world, tmp_path):
    whole, out = finished[0], tmp_path / "killed"
    arguments = settings(tiny_world / "shards", out)
    # The parent kills the run with SIGKILL as soon as its first checkpoint stands.
    with subprocess.Popen([sys.executable, "-m", "pretrain.train", *arguments], cwd=ROOT, env=one_thread()) as process:
        deadline = time.time() + 120
        while not runs.checkpoints(out) and time.time() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert runs.checkpoints(out) and not (out / "summary.json").exists()
    run([*arguments, "--resume"])
    for name in ("encoder", "optimizer"):
        ours = safetensors.torch.load_file(runs.checkpoints(out)[-1] / f"{name}.safetensors")
        theirs = safetensors.torch.load_file(runs.checkpoints(whole)[-1] / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    losses = [
        [line["loss"] for line in map(json.loads, (path / "log.jsonl").open()) if "loss" in line]
        for path in (whole, out)
    ]
    assert losses[0] == losses[1]


def test_a_run_is_never_overwritten(finished, tiny_world):
    with pytest.raises(UserError, match="--resume"):
        run(settings(tiny_world / "shards", finished[0]))


def test_resuming_with_fewer_steps_than_are_done_is_refused(finished, tiny_world):
    with pytest.raises(UserError, match=r"has done \d+ steps already, more than --optim\.steps 2"):
        run(settings(tiny_world / "shards", finished[0], "--resume", "--optim.steps", "2"))


def test_resuming_with_another_encoder_is_refused(finished, tiny_world):
    with pytest.raises(UserError, match="encoder"):
        run(settings(tiny_world / "shards", finished[0], "--resume", "true", "--encoder.dimensions", "8"))


@pytest.mark.parametrize("objective", ["scl", "clip"])
def test_what_an_objective_learns_is_resumed(objective, tiny_world, tmp_path):
    small = {"scl": ["queue", "64"], "clip": ["width", "8"]}[objective]
    arguments = settings(tiny_world / "shards", tmp_path / "r", "--objective.name", objective, "--optim.steps", "4")
    for option, value in (small, ["learn_temperature", "true"]):
        arguments += [f"--objective.{objective}.{option}", value]
    run(arguments)
    second, last = runs.checkpoints(tmp_path / "r")
    kept = {name: safetensors.torch.load_file(last / f"{name}.safetensors") for name in ("encoder", "objective")}
    moved = safetensors.torch.load_file(second / "objective.safetensors")
    assert not torch.equal(moved["log_temperature"], kept["objective"]["log_temperature"])
    shutil.rmtree(last)
    run([*arguments, "--resume"])
    for name, tensors in kept.items():
        again = safetensors.torch.load_file(last / f"{name}.safetensors")
        assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def state_of(checkpoint):
    return json.loads(read_described(checkpoint / "optimizer.safetensors")[1]["state"])


def test_the_loss_scale_of_fp16_is_resumed(tiny_world, tmp_path, monkeypatch):
    """With torch's own scaler, on a CPU, whose scale doubles every third step; fp16 itself needs a GPU."""

    class Scaled(Accelerator):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)

    monkeypatch.setattr("pretrain.train.Accelerator", Scaled)
    arguments = settings(tiny_world / "shards", tmp_path / "r")
    run(arguments)
    states = [state_of(folder) for folder in runs.checkpoints(tmp_path / "r")]
    assert [(state["scaler"]["scale"], state["scaler"]["_growth_tracker"]) for state in states] == [(16, 1), (32, 0)]
    last = runs.checkpoints(tmp_path / "r")[-1]
    kept = safetensors.torch.load_file(last / "encoder.safetensors")
    shutil.rmtree(last)
    run([*arguments, "--resume"])
    again = state_of(last)
    assert again["scaler"] == states[1]["scaler"]
    found = safetensors.torch.load_file(last / "encoder.safetensors")
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_a_run_from_before_a_setting_existed_continues(finished, tiny_world, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(finished[0], out)
    made = read_json(out / "run.json")
    del made["settings"]["objective"]["guards"], made["settings"]["encoder"]["compile"]
    write_json(out / "run.json", made)
    assert run([*settings(tiny_world / "shards", out), "--resume"])["steps"] == 6


@pytest.mark.parametrize("section, older", [("batch", {"lanes": 0}), ("evaluation", {"choose_on": "unseen"})])
def test_a_run_of_another_version_ends_in_one_message(section, older, finished, tiny_world, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "older")
    made = read_json(out / "run.json")
    made["settings"][section] |= older
    write_json(out / "run.json", made)
    with pytest.raises(UserError, match=rf"run.json was made by another version .*{next(iter(older))}.*: train again"):
        run([*settings(tiny_world / "shards", out), "--resume"])
