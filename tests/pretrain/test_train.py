"""Runs as a user starts them: one command, one process, files on disk."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml
from accelerate.state import AcceleratorState

from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.collapse import CollapsedError
from pretrain.evaluation.saved_encoder import load_run_encoder
from pretrain.pages.run import write_page
from pretrain.training import runs
from tests.pretrain.run_helpers import ROOT, one_thread, run, settings


def test_summary_says_what_the_issue_of_a_run_is(finished):
    out, summary = finished
    assert read_json(out / "summary.json") == summary
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
    made = read_json(out / "run.json")
    assert made["settings"]["optim"]["steps"] == 6
    assert {"commit", "versions", "machine"} <= made.keys()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [2, 4, 6]
    assert {"chance", "pv_loss_chance", "effective_rank", "spread", "mean_cosine", "alignment"} <= logged[0].keys()
    assert [line["step"] for line in lines if "valid_page_auc_cold" in line] == [0, 4, 6]
    assert list((out / "tensorboard").rglob("events.*"))


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
    """COURIER's ablation: reconstruction alone. The same run with a guard continues."""
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


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (998_000, 1_000_000, 999_000):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert [path.name for path in runs.checkpoints(tmp_path)] == ["step-998000", "step-999000", "step-1000000"]


def test_a_run_that_gets_no_better_stops_early(tiny_world, tmp_path, monkeypatch):
    found = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])

    def judge(*_):
        warm = {"auc": float("nan"), "standard_error": float("nan"), "pages": 0}
        return {"warm": warm, "cold": {"auc": next(found), "standard_error": 0.01, "pages": 50}}

    monkeypatch.setattr("pretrain.training.journal.encoder_page_auc", judge)
    arguments = settings(tiny_world / "shards", tmp_path / "e", "--evaluation.every", "1", "--evaluation.patience", "3")
    summary = run(arguments)
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (4, 1, True)
    assert [line["step"] for line in summary["validation"]] == [0, 1, 2, 3, 4]
    assert {"warm", "cold"} <= summary["validation"][0].keys()
    assert runs.checkpoints(tmp_path / "e")[-1].name == "step-000004"
    assert run([*arguments, "--resume"])["steps"] == 4  # it does not continue by itself
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


def test_micro_batches_train_to_the_same_weights(tiny_world, tmp_path, capsys):
    """Batch norm is kept still: its statistics would be a micro-batch's, as a note says where it is not."""
    found = []
    for micro_batch in (0, 32):
        out = tmp_path / str(micro_batch)
        arguments = settings(tiny_world / "shards", out, "--encoder.freeze_norm", "true", "--optim.steps", "1")
        run([*arguments, "--optim.micro_batch", str(micro_batch), "--optim.lr", "1e-3"])
        found.append(safetensors.torch.load_file(runs.checkpoints(out)[-1] / "encoder.safetensors"))
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-3, atol=1e-5)
    assert "batch norm takes its statistics" not in capsys.readouterr().out
    run([*settings(tiny_world / "shards", tmp_path / "moving", "--optim.steps", "1"), "--optim.micro_batch", "32"])
    assert "batch norm takes its statistics" in " ".join(capsys.readouterr().out.split())


def test_a_history_above_that_of_the_shards_is_named(tiny_world, tmp_path, capsys):
    run(settings(tiny_world / "shards", tmp_path / "h", "--batch.history", 31, "--optim.steps", 1))
    printed = capsys.readouterr().out
    assert "--batch.history is 31, but the shards keep the last 30 clicks of a request" in printed
    assert "--evaluation.history" not in printed


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
    assert read_json(tmp_path / "two" / "summary.json")["steps"] == 6
    assert read_json(tmp_path / "two" / "run.json")["processes"] == 2


def test_the_preset_for_small_catalogues_never_keeps_what_is_worse_than_its_start(tiny_world, tmp_path):
    """Even where the learning rate ruins the encoder: the start is judged, too, on validation items never shown."""
    out = tmp_path / "run"
    arguments = ["--config", "configs/pretrain/small_catalogue.yaml", *settings(tiny_world / "shards", out)]
    run([*arguments, "--optim.lr", "0.5", "--evaluation.every", "2", "--evaluation.choose_on", "cold"])
    best = read_json(out / "best.json")
    judged = [line["valid_page_auc_cold"] for line in runs.read_log(out) if "valid_page_auc_cold" in line]
    assert len(judged) > 1 and judged[0] <= best["auc"] in judged and best["auc"] >= best["bar"]
