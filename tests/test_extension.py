"""Another package's plug-in of every kind, found by its entry point and run through its command, options included.

The package stands in ``extension/``: one class with one option for each kind. Each class appends its name and its
option to the file that the environment variable SEEN names, so that a test sees what reached it in the command's own
process.
"""

import json
from pathlib import Path

import pytest

from data_tools.common.files import read_json
from data_tools.dataset.schema import open_dataset
from tests.installed import install, run

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
    --encoder.name any --encoder.image_size 32 --batch.rows 16 --batch.workers 0 --optim.steps 2 --optim.precision fp32
    --evaluation.requests 40 --evaluation.every 2 --checkpoint_every 2
"""
NEEDED = {
    "pretrain.train": "",
    "downstream.train": "--dataset d --table t --out o",
    "data_tools.convert": "--files . --out o",
}
REFUSALS = """
import importlib, json, re, sys
from pathlib import Path
from data_tools.common.cli import UserError, parse_settings
said = {}
for kind, (module, flags) in json.loads(sys.argv[1]).items():
    command = importlib.import_module(module)
    settings = getattr(command, re.search(r"parse_settings\\((\\w+)", Path(command.__file__).read_text())[1])
    try:
        parse_settings(settings, "", flags)
        said[kind] = "accepted"
    except UserError as error:
        said[kind] = str(error)
print(json.dumps(said))
"""


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


def succeed(folder: Path, monkeypatch: pytest.MonkeyPatch, *command: str) -> set[str]:
    """Run a command, and return what the plug-ins wrote about themselves."""
    monkeypatch.setenv("SEEN", str(folder / "seen"))
    (folder / "seen").write_text("")
    done = run(folder, "-m", *command)
    assert done.returncode == 0, done.stderr
    return set((folder / "seen").read_text().splitlines())


@pytest.fixture(scope="module")
def table(folder, tiny_world):
    """A table of the extension's encoder, trained with its objective."""
    with pytest.MonkeyPatch.context() as patch:
        given = ["--data", str(tiny_world / "shards"), "--out", "run", *flags("objective", "encoder family")]
        seen = succeed(folder, patch, "pretrain.train", *given, *SHORT.split())
        assert seen >= {"Radius length 2.5", "Patches cells 3"}
        terms = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
        assert any("radius_loss" in line for line in terms)
        seen = succeed(
            folder, patch, "pretrain.export", "--run", "run", "--data", str(tiny_world / "shards"), "--out", "table"
        )
        assert "Patches cells 3" in seen
    return folder / "table"


def test_an_objective_and_an_encoder_family_train_and_export(table):
    assert read_json(table / "table.json")["size"] == 64
    settings = read_json(table.parent / "run" / "run.json")["settings"]
    assert settings["objective"]["radius"] == {"length": 2.5} and settings["encoder"]["patches"] == {"cells": 3}


def test_a_form_an_aggregator_and_a_model_train(table, folder, tiny_world, monkeypatch):
    given = ["--dataset", str(tiny_world / "dataset"), "--table", str(table), "--out", "ctr"]
    seen = succeed(folder, monkeypatch, "downstream.train", *given, *flags("form", "aggregator", "model"))
    assert seen >= {"Nearest clicks 4", "Decay half_life 1.5", "Scaled factor 0.5"}
    summary = read_json(folder / "ctr" / "summary.json")
    assert summary["settings"]["image"]["nearest"] == {"clicks": 4}


def test_a_data_set_converts(folder, monkeypatch):
    (folder / "owner").mkdir()
    rows = "\n".join(f"u{n % 7},i{n % 5},{1_700_000_000 + 60 * n},{n % 4}" for n in range(400))
    (folder / "owner" / "pairs.csv").write_text(f"user,item,time,count\n{rows}\n")
    seen = succeed(folder, monkeypatch, "data_tools.convert", "--files", "owner", "--out", "pairs", *flags("data set"))
    assert "Pairs least 2" in seen
    made = open_dataset(folder / "pairs")
    assert made.info["source"] == "Pairs" and made.impressions["click"].mean() == 0.5  # counts of 2 and 3


def test_an_option_without_its_plug_in_is_an_error(folder):
    asked = {kind: (module, [*NEEDED[module].split(), *option.split()]) for kind, (module, _, option) in KINDS.items()}
    asked["data set"][1].extend(["--source", "movielens"])
    done = run(folder, "-c", REFUSALS, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for kind, (_, choice, option) in KINDS.items():
        flag, value = option.split()
        assert f"{flag} is {value}" in said[kind] and choice in said[kind], f"{kind}: {said[kind]}"
