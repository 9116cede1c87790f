"""What a source's few words make: the commands run, in which order, and what is asked for where nothing can be made."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import write_json
from data_tools.tables.table import write_table
from downstream.comparison.sources import Source, make_tables


@pytest.fixture
def commands(monkeypatch):
    """Stands in for the processes: writes what they would write and remembers what was asked."""
    asked = []

    def fake(command, check):
        assert command[1] == "-m"
        options = dict(zip(command[3::2], command[4::2], strict=True))
        asked.append((command[2], options))
        out = Path(options["--out"])
        if command[2] == "pretrain.train":
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "summary.json", {})
        else:
            write_table(out, ["a"], np.ones((1, 2), dtype=np.float32), {})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    return asked


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    return str(tmp_path / "shards")


def finished(run: Path) -> str:
    write_json(run / "summary.json", {})
    return str(run)


def test_ids_only_needs_nothing(commands):
    assert make_tables(Source(), None) == {} and commands == []


def test_a_run_is_exported_once_with_the_weights_asked_for(commands, shards, tmp_path):
    run = finished(tmp_path / "run")
    for weights in ("trained", "initial", "last", "trained"):
        assert make_tables(Source(run=run, weights=weights), shards) == {0: Path(run) / "tables" / weights}
    assert [(module, options["--weights"], options["--data"]) for module, options in commands] == [
        ("pretrain.export", "trained", shards),
        ("pretrain.export", "initial", shards),
        ("pretrain.export", "last", shards),
    ]


def test_runs_of_several_seeds_are_trained_where_missing(commands, shards, tmp_path):
    (tmp_path / "run1").mkdir()  # begun and stopped
    runs = [finished(tmp_path / "run0"), str(tmp_path / "run1"), str(tmp_path / "run2")]
    tables = make_tables(Source(train="courier.yaml", run=runs, data=shards), None)
    assert tables == {seed: Path(run) / "tables" / "trained" for seed, run in enumerate(runs)}
    trainings = [options for module, options in commands if module == "pretrain.train"]
    assert [(one["--out"], one["--seed"], one.get("--resume")) for one in trainings] == [
        (runs[1], "1", "true"),
        (runs[2], "2", None),
    ]
    assert all(one["--config"] == "courier.yaml" and one["--data"] == shards for one in trainings)


def test_an_encoder_is_exported_with_its_settings(commands, shards, tmp_path):
    encoder = {"name": "mobilenetv2_100", "weights": None, "arguments": {"pad_type": "same"}, "mean": [0.5] * 3}
    make_tables(Source(encoder=encoder, table=str(tmp_path / "generic")), shards)
    [(module, options)] = commands
    assert module == "pretrain.export"
    assert options["--encoder.name"] == "mobilenetv2_100" and options["--encoder.weights"] == "null"
    assert options["--encoder.arguments"] == '{"pad_type": "same"}' and options["--encoder.mean"] == "[0.5, 0.5, 0.5]"


def test_what_cannot_be_made_is_asked_for(commands, shards, tmp_path):
    with pytest.raises(UserError, match=r"accelerate launch pretrain/train\.py --data .*shards --out .*run"):
        make_tables(Source(run=str(tmp_path / "run")), shards)
    with pytest.raises(UserError, match=r"data_tools\.shards --dataset DATASET --out .*nothing"):
        make_tables(Source(run=finished(tmp_path / "run")), str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="'data' is missing"):
        make_tables(Source(run=finished(tmp_path / "run")), None)
    with pytest.raises(UserError, match=r"pretrain/export\.py"):
        make_tables(Source(table=str(tmp_path / "table")), None)
    assert commands == []


def test_a_table_older_than_its_run_is_refused(commands, shards, tmp_path):
    run = finished(tmp_path / "run")
    [table] = make_tables(Source(run=run), shards).values()
    os.utime(table / "table.json", (0, 0))
    with pytest.raises(UserError, match="older than the run"):
        make_tables(Source(run=run), shards)


def test_a_table_that_another_comparison_makes_meanwhile_is_taken(monkeypatch, shards, tmp_path):
    def second_of_two(command, check):
        write_table(command[command.index("--out") + 1], ["a"], np.ones((1, 2), dtype=np.float32), {})
        return subprocess.CompletedProcess(command, 2)  # exists already

    monkeypatch.setattr(subprocess, "run", second_of_two)
    run = finished(tmp_path / "run")
    assert make_tables(Source(run=run), shards) == {0: Path(run) / "tables" / "trained"}


def test_a_failing_command_is_named(monkeypatch, shards, tmp_path):
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(UserError, match=r"this command failed: python -m pretrain\.export --run"):
        make_tables(Source(run=finished(tmp_path / "run")), shards)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "best"}, "one of"),
        ({"run": "r", "table": "t"}, "not several"),
        ({"encoder": {"name": "x"}}, "needs 'table'"),
        ({"train": "x.yaml"}, "needs 'run'"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Source(**given)


def test_only_the_chosen_pre_training_seeds_are_made(commands, shards, tmp_path):
    runs = [str(tmp_path / f"run{seed}") for seed in range(3)]
    assert list(make_tables(Source(train="courier.yaml", run=runs), shards, [2])) == [2]
    assert [given["--seed"] for module, given in commands if module == "pretrain.train"] == ["2"]
    with pytest.raises(UserError, match=r"encoder_seeds names \[3\], but a source has 3 runs"):
        make_tables(Source(train="courier.yaml", run=runs), shards, [0, 3])
