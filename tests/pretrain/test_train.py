"""Runs as a user starts them: one command, one process, files on disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data_tools.common.cli import UserError, parse_settings
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.collapse import CollapsedError
from pretrain.evaluation.saved_encoder import load_run_encoder
from pretrain.pages.run import write_page
from pretrain.settings import Settings
from pretrain.train import train
from pretrain.training import runs
from pretrain.training.optim import schedule

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


@pytest.fixture(scope="module")
def finished(tiny_world, tmp_path_factory):
    """A finished run's folder and summary."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run(settings(tiny_world / "shards", out))


def test_summary_says_what_the_issue_of_a_run_is(finished):
    out, summary = finished
    assert json.loads((out / "summary.json").read_text()) == summary
    for name in ("warm", "cold"):
        figures = summary["page_auc"][name]
        assert 0 < figures["untrained"] < 1
        assert 0 < figures["trained"] < 1
        assert figures["oracle"] > 0.7
    assert summary["steps"] == 6
    assert 1 <= summary["effective_rank"] <= 16
    assert summary["seconds"] > 0


def test_the_next_command_has_its_configuration(finished, tiny_world):
    out, _ = finished
    made = yaml.safe_load((out / "compare.yaml").read_text(encoding="utf-8"))
    assert made["dataset"] == str(tiny_world / "dataset")
    assert made["sources"]["untrained"] == {"run": str(out), "weights": "initial"}


def test_the_last_weights_are_those_of_the_latest_checkpoint(finished):
    out, _ = finished
    encoder, _, record = load_run_encoder(out, "last")
    kept = safetensors.torch.load_file(out / "checkpoints" / "step-000006" / "encoder.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert record["weights"] == "last" and record["saw_until"] == load_run_encoder(out)[2]["saw_until"]


def test_run_folder_can_be_understood_later(finished):
    out, _ = finished
    made = json.loads((out / "run.json").read_text())
    assert made["settings"]["optim"]["steps"] == 6
    assert {"commit", "versions", "machine"} <= made.keys()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [2, 4, 6]
    assert {"chance", "pv_loss_chance", "effective_rank", "spread", "mean_cosine", "alignment"} <= logged[0].keys()
    assert [line["step"] for line in lines if "valid_page_auc_cold" in line] == [0, 4, 6]
    assert list((out / "tensorboard").rglob("events.*"))


def test_killed_and_resumed_ends_with_the_same_bits(finished, tiny_world, tmp_path):
    whole, out = finished[0], tmp_path / "killed"
    arguments = settings(tiny_world / "shards", out)
    # The parent kills the run with SIGKILL as soon as its first checkpoint stands.
    with subprocess.Popen([sys.executable, "-m", "pretrain.train", *arguments], cwd=ROOT, env=one_thread()) as process:
        deadline = time.time() + 120
        while not runs.checkpoints(out) and time.time() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "summary.json").exists()
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


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_a_run_is_never_overwritten(finished, tiny_world):
    with pytest.raises(UserError, match="--resume"):
        run(settings(tiny_world / "shards", finished[0]))


def test_resuming_with_fewer_steps_than_are_done_is_refused(finished, tiny_world):
    with pytest.raises(UserError, match=r"has done \d+ steps already, more than --optim\.steps 2"):
        run(settings(tiny_world / "shards", finished[0], "--resume", "--optim.steps", "2"))


def test_resuming_with_another_encoder_is_refused(finished, tiny_world):
    with pytest.raises(UserError, match="encoder"):
        run(settings(tiny_world / "shards", finished[0], "--resume", "true", "--encoder.dimensions", "8"))


@pytest.fixture
def another_precision():
    """accelerate keeps one precision a process: it forgets the other tests' before this one, and this one's after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_trains_and_full_precision_judges(tiny_world, tmp_path, monkeypatch, another_precision):
    """Tables are exported in full precision: so it is what the figures are of."""
    seen, features = set(), ImageEncoder.features

    def watched(encoder, images):
        seen.add((encoder.training, torch.is_autocast_enabled("cpu")))
        return features(encoder, images)

    monkeypatch.setattr(ImageEncoder, "features", watched)
    arguments = settings(tiny_world / "shards", tmp_path / "b", "--optim.steps", "2", "--optim.precision", "bf16")
    assert run(arguments)["precision"] == "bf16"
    assert seen == {(True, True), (False, False)}


def test_without_contrast_a_run_collapses_and_is_stopped(tiny_world, tmp_path):
    """COURIER's ablation: reconstruction alone. The same run with a guard goes on."""
    arguments = ["--log_every", "1", "--optim.steps", "60", "--optim.lr", "0.02", "--evaluation.requests", "20"]
    with pytest.raises(CollapsedError, match=r"objective.courier.contrast is false"):
        run(settings(tiny_world / "shards", tmp_path / "c", *arguments, "--objective.courier.contrast", "false"))
    lines = [json.loads(line) for line in (tmp_path / "c" / "log.jsonl").read_text().splitlines()]
    cosine = [line["mean_cosine"] for line in lines if "loss" in line]
    assert cosine[0] < 0.9
    assert cosine[-1] > 0.99
    page = write_page(tmp_path / "c", str(tiny_world / "shards")).read_text()
    assert f"Stopped at step {lines[-1]['step']}</b>: the embeddings have collapsed" in page
    steps = lines[-1]["step"] + 2
    guarded = [*arguments, "--objective.courier.contrast", "false", "--objective.guards.variance", "1"]
    assert run(settings(tiny_world / "shards", tmp_path / "g", *guarded, "--optim.steps", steps))["steps"] == steps


def test_a_run_that_gets_no_better_stops_early(tiny_world, tmp_path, monkeypatch):
    found = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr("pretrain.training.best.chosen_auc", lambda *_, **__: next(found))
    arguments = settings(tiny_world / "shards", tmp_path / "e", "--evaluation.every", "1", "--evaluation.patience", "3")
    summary = run(arguments)
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (4, 1, True)
    assert [line["step"] for line in summary["validation"]] == [0, 1, 2, 3, 4]
    assert {"warm", "cold"} <= summary["validation"][0].keys()
    assert runs.checkpoints(tmp_path / "e")[-1].name == "step-000004"
    assert run([*arguments, "--resume"])["steps"] == 4  # it does not go on by itself
    assert run([*arguments, "--resume", "--evaluation.patience", "4", "--optim.steps", "5"])["steps"] == 5


def test_a_loss_that_is_not_finite_stops_and_saves_the_items(tiny_world, tmp_path):
    with pytest.raises(UserError, match=r"not finite"):
        run(
            settings(
                tiny_world / "shards", tmp_path / "n", "--optim.lr", "1e30", "--optim.clip", "0", "--optim.warmup", "1"
            )
        )
    saved = json.loads(next((tmp_path / "n").glob("not-finite-*.json")).read_text())
    assert saved["items"]


@pytest.mark.parametrize("objective", ["simclr", "simsiam", "supervised"])
def test_baselines_train_on_catalogue_pictures(objective, tiny_world, tmp_path):
    summary = run(settings(tiny_world / "shards", tmp_path / "s", "--objective.name", objective, "--optim.steps", "2"))
    assert summary["objective"] == objective


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


def test_the_loss_scale_of_fp16_is_resumed(tiny_world, tmp_path, monkeypatch):
    """With torch's own scaler, on a CPU, whose scale doubles every third step; fp16 itself needs a GPU."""

    class Scaled(Accelerator):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)

    monkeypatch.setattr("pretrain.train.Accelerator", Scaled)
    arguments = settings(tiny_world / "shards", tmp_path / "r")
    run(arguments)
    states = [json.loads((folder / "state.json").read_text()) for folder in runs.checkpoints(tmp_path / "r")]
    assert [(state["scaler"]["scale"], state["scaler"]["_growth_tracker"]) for state in states] == [(16, 1), (32, 0)]
    last = runs.checkpoints(tmp_path / "r")[-1]
    kept = safetensors.torch.load_file(last / "encoder.safetensors")
    shutil.rmtree(last)
    run([*arguments, "--resume"])
    again = json.loads((last / "state.json").read_text())
    assert again["scaler"] == states[1]["scaler"]
    found = safetensors.torch.load_file(last / "encoder.safetensors")
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_micro_batches_train_to_the_same_weights(tiny_world, tmp_path):
    """Batch norm is kept still: its statistics would be a micro-batch's."""
    found = []
    for micro_batch in (0, 32):
        out = tmp_path / str(micro_batch)
        arguments = settings(tiny_world / "shards", out, "--encoder.freeze_norm", "true", "--optim.steps", "1")
        run([*arguments, "--optim.micro_batch", str(micro_batch), "--optim.lr", "1e-3"])
        found.append(safetensors.torch.load_file(runs.checkpoints(out)[-1] / "encoder.safetensors"))
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-3, atol=1e-5)


def test_a_run_from_before_a_setting_existed_goes_on(finished, tiny_world, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(finished[0], out)
    made = json.loads((out / "run.json").read_text())
    del made["settings"]["objective"]["guards"], made["settings"]["encoder"]["compile"]
    (out / "run.json").write_text(json.dumps(made))
    assert run([*settings(tiny_world / "shards", out), "--resume"])["steps"] == 6


def test_a_run_of_a_former_version_goes_on(finished, tiny_world, tmp_path):
    """Its settings stood in other places, and its log and summary called warm items seen."""
    out = tmp_path / "former"
    shutil.copytree(finished[0], out)
    made = json.loads((out / "run.json").read_text())
    options = made["settings"]["objective"].pop("courier")
    made["settings"]["objective"] |= options | {"scl": {"queue": 7}}  # options of what was not chosen had no effect
    made["settings"]["encoder"] |= made["settings"]["encoder"].pop("timm")
    del made["settings"]["encoder"]["family"], made["settings"]["encoder"]["open_clip"]
    made["settings"]["batch"]["lanes"] = made["settings"]["batch"].pop("shard_streams")
    made["settings"]["evaluation"]["choose_on"] = "unseen"
    made["settings"]["world"] = {"an_option": "that is gone"}
    (out / "run.json").write_text(json.dumps(made))
    log = (out / "log.jsonl").read_text()
    (out / "log.jsonl").write_text(log.replace("auc_warm", "auc_seen").replace("auc_cold", "auc_unseen"))
    assert runs.read_settings(out) == runs.read_settings(finished[0])
    summary = run([*settings(tiny_world / "shards", out), "--resume"])
    assert summary["validation"] == finished[1]["validation"]
    with pytest.raises(UserError, match="resume with the same"):
        run([*settings(tiny_world / "shards", out), "--resume", "--objective.courier.pv_weight", "2"])


def test_a_history_above_that_of_the_shards_is_named(tiny_world, tmp_path, capsys):
    run(settings(tiny_world / "shards", tmp_path / "h", "--batch.history", 31, "--optim.steps", 1))
    printed = capsys.readouterr().out
    assert "--batch.history is 31, but the shards keep the last 30 clicks of a request" in printed
    assert "--evaluation.history" not in printed


def test_unknown_objective_is_refused(tiny_world, tmp_path):
    with pytest.raises(UserError, match="courier"):
        run(settings(tiny_world / "shards", tmp_path / "u", "--objective.name", "curier"))


def test_schedule_warms_up_and_falls_to_zero():
    made = parse_settings(Settings, "", ["--optim.steps", "100", "--optim.warmup", "10", "--optim.lr", "1.0"])
    assert schedule(0, made.optim) == pytest.approx(0.1)
    assert schedule(9, made.optim) == pytest.approx(1.0)
    assert schedule(55, made.optim) == pytest.approx(0.5)
    assert schedule(99, made.optim) < 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.stepz", "6"], "optim.steps"),
        (["--optim.step", "6"], "optim.steps"),  # no abbreviations either
        (["--optimm.steps", "6"], "the nearest is optim"),
        (["--optim.steps", "many"], "optim.steps"),
    ],
)
def test_a_wrong_setting_names_the_right_one(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", arguments)
    assert message in capsys.readouterr().err


def test_a_wrong_key_in_a_file_names_the_right_one(tmp_path, capsys):
    for text, nearest in (("optim: {step: 6}", "optim.steps"), ("optm: {steps: 6}", "optim"), ("sed: 1", "seed")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(SystemExit):
            parse_settings(Settings, "", ["--config", str(tmp_path / "c.yaml")])
        assert f"the nearest is {nearest}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optim.steps", "0"],
        ["--batch.crop_scale", "1.5"],
        ["--optim.precision", "fp8"],
        ["--objective.courier.reconstruction", "self"],
        ["--objective.guards.koleo", "-1"],
        ["--optim.micro_batch", "-4"],
        ["--objective.scl.momentum", "2"],
        ["--evaluation.choose_on", "unseen"],
        ["--objective.temperature", "0.1"],  # each objective with a temperature has its own
        ["--objective.simsiam.temperature", "0.1"],
    ],
)
def test_values_out_of_range_are_refused_at_once(arguments, capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", arguments)
    assert arguments[0][2:] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective.courier.learn_temperature", "--objective.courier.contrast", "false"], "no temperature is used"),
        (["--objective.name", "simclr", "--objective.courier.pv_weight", "3"], "choose --objective.name courier"),
        (["--objective.scl.queue", "3"], "choose --objective.name scl"),
        (["--encoder.open_clip.tag", "t"], "choose --encoder.family open_clip"),
        (["--encoder.weights", "w", "--encoder.timm.pretrained"], "give one of them"),
    ],
)
def test_contradictions_are_refused_at_once(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_settings(Settings, "", arguments)


def test_no_arguments_are_the_embedded_default():
    assert parse_settings(Settings, "", []) == Settings()


def test_a_switch_needs_no_value():
    assert parse_settings(Settings, "", ["--resume", "--optim.steps", "6"]).resume
    assert parse_settings(Settings, "", ["--optim.steps", "6", "--resume"]).resume
    assert not parse_settings(Settings, "", ["--resume", "false"]).resume


def test_two_processes_train(tiny_world, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "pretrain/train.py",
    ]
    arguments = settings(tiny_world / "shards", tmp_path / "two")
    subprocess.run([*launch, *arguments], cwd=ROOT, env=one_thread(), check=True, timeout=300)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["steps"] == 6


def test_the_preset_for_small_catalogues_never_keeps_what_is_worse_than_its_start(tiny_world, tmp_path):
    """Even where the learning rate ruins the encoder: the start is judged, too, on validation items never shown."""
    out = tmp_path / "run"
    arguments = ["--config", "configs/pretrain/small_catalogue.yaml", *settings(tiny_world / "shards", out)]
    run([*arguments, "--optim.lr", "0.5", "--evaluation.every", "2", "--evaluation.choose_on", "cold"])
    best = json.loads((out / "best.json").read_text())
    judged = [line["valid_page_auc_cold"] for line in runs.read_log(out) if "valid_page_auc_cold" in line]
    assert len(judged) > 1 and best["auc"] == max(judged) >= judged[0]
