"""Another package's plug-in of every kind, found by its entry point and run through its command, options included.

The package stands in ``extension/``: one class with one option for each kind. Each class appends its name and its
option to the file that the environment variables SEEN and COMMAND name, so that a test sees what reached it in each
command.
"""

import json
from pathlib import Path

import pytest

from data_tools.common.files import read_json
from data_tools.dataset.schema import open_dataset
from tests.installed import install, run_series

EXTENSION = Path(__file__).parent / "extension"
# Kind -> command, what chooses the plug-in, and its option.
KINDS = {
    "objective": ("pretrain.train", "--objective.name radius", "--objective.radius.length 2.5"),
    "encoder family": ("pretrain.train", "--encoder.family patches", "--encoder.patches.cells 3"),
    "form": ("downstream.train", "--image.form nearest", "--image.nearest.clicks 4"),
    "aggregator": ("downstream.train", "--image.aggregator decay", "--image.decay.half_life 1.5"),
    "model": ("downstream.train", "--model.name scaled", "--model.scaled.factor 0.5"),
    "data set": ("data_tools.convert", "--source pairs", "--pairs.least 2"),
}
SHORT = """
    --encoder.name any --encoder.image_size 32 --batch.rows 16 --batch.workers 0 --optim.steps 20 --optim.lr 0.1
    --optim.warmup 0 --optim.precision fp32 --evaluation.requests 40 --evaluation.every 20 --log_every 1
"""
NEEDED = {
    "pretrain.train": "",
    "downstream.train": "--dataset d --table t --out o",
    "data_tools.convert": "--files . --out o",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the package is installed and everything is written."""
    made = tmp_path_factory.mktemp("extension")
    modules = {path.name: path.read_text(encoding="utf-8") for path in EXTENSION.glob("*.py")}
    install(made, modules, (EXTENSION / "project.toml").read_text(encoding="utf-8"))
    return made


def flags(*kinds: str) -> list[str]:
    """What chooses the plug-ins of these kinds, and their options."""
    return [word for kind in kinds for part in KINDS[kind][1:] for word in part.split()]


@pytest.fixture(scope="module")
def ended(folder, tiny_world):
    """By name: how each command ended, and what the plug-ins wrote about themselves in it."""
    shards = ["--data", str(tiny_world / "shards")]
    (folder / "owner").mkdir()
    rows = "\n".join(f"u{n % 7},i{n % 5},{1_700_000_000 + 60 * n},{n % 4}" for n in range(400))
    (folder / "owner" / "pairs.csv").write_text(f"user,item,time,count\n{rows}\n")
    chosen = ["--dataset", str(tiny_world / "dataset"), "--table", "table", "--out", "ctr"]
    commands = {
        "train": ["pretrain.train", *shards, "--out", "run", *flags("objective", "encoder family"), *SHORT.split()],
        "export": ["pretrain.export", "--run", "run", *shards, "--out", "table"],
        "ctr": ["downstream.train", *chosen, *flags("form", "aggregator", "model")],
        "convert": ["data_tools.convert", "--files", "owner", "--out", "pairs", *flags("data set")],
    }
    for kind, (module, _, option) in KINDS.items():
        commands[kind] = [module, *NEEDED[module].split(), *option.split()]
    commands["data set"] += ["--source", "movielens"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", str(folder / "seen"))
        done = run_series(folder, *commands.values())
    seen = [Path(f"{folder}/seen-{number}") for number in range(len(done))]
    notes = [set(one.read_text().splitlines()) if one.exists() else set() for one in seen]
    return dict(zip(commands, zip(done, notes, strict=True), strict=True))


def succeeded(ended, name: str) -> set[str]:
    """What the plug-ins wrote in a command that ended well."""
    done, notes = ended[name]
    assert done.returncode == 0, done.stderr
    return notes


def test_an_objective_and_an_encoder_family_train_and_export(ended, folder):
    assert succeeded(ended, "train") >= {"Radius length 2.5", "Patches cells 3"}
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["radius_loss"] for line in lines if "radius_loss" in line]
    assert len(losses) == 20 and losses[-1] < losses[0] / 2
    assert "Patches cells 3" in succeeded(ended, "export")
    assert read_json(folder / "table" / "table.json")["size"] == 64
    settings = read_json(folder / "run" / "run.json")["settings"]
    assert settings["objective"]["radius"] == {"length": 2.5} and settings["encoder"]["patches"] == {"cells": 3}


def test_a_form_an_aggregator_and_a_model_train(ended, folder):
    assert succeeded(ended, "ctr") >= {"Nearest clicks 4", "Decay half_life 1.5", "Scaled factor 0.5"}
    summary = read_json(folder / "ctr" / "summary.json")
    assert summary["settings"]["image"]["nearest"] == {"clicks": 4}


def test_a_data_set_converts(ended, folder):
    assert "Pairs least 2" in succeeded(ended, "convert")
    made = open_dataset(folder / "pairs")
    assert made.info["source"] == "Pairs" and made.impressions["click"].mean() == 0.5  # counts of 2 and 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_without_its_plug_in_is_an_error(kind, ended):
    _, choice, option = KINDS[kind]
    flag, value = option.split()
    done, _ = ended[kind]
    assert done.returncode == 1 and f"{flag} is {value}" in done.stderr and choice in done.stderr, done.stderr
