"""Two consecutive time ranges of one dataset: what the second training starts with of the first."""

import sys

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from data_tools.common.cli import UserError, run_command
from data_tools.common.files import read_json, write_json
from data_tools.tables.table import write_table
from downstream.data.codes import FIRST_KNOWN, UNKNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings
from downstream.train import main
from downstream.training.run import RunSettings
from downstream.training.saved_runs import load_run
from downstream.training.settings import ImageSettings, ModelSettings
from downstream.training.warm_up import WarmUp


def train(small_world, folder, out, *arguments):
    words = ["--dataset", small_world.folder, "--table", folder / "table", "--out", out, "--model.name", "din"]
    sys.argv = ["downstream.train", *map(str, [*words, *arguments])]
    run_command(main)


@pytest.fixture(scope="module")
def yesterday(small_world, tmp_path_factory):
    """The run of the first half of the training split, in a folder with the table."""
    folder, argv = tmp_path_factory.mktemp("days"), sys.argv
    write_table(folder / "table", small_world.table.ids, small_world.table.vectors, {})
    train(small_world, folder, folder / "run", "--data.train_until", "0.1", "--optim.lr", "0.05")
    sys.argv = argv
    return folder / "run"


@pytest.fixture(scope="module")
def today(small_world):
    return load_ctr_data(small_world.folder, DataSettings(train_from=0.1))


def fresh(today, small_world, name="din"):
    torch.manual_seed(3)
    return build_model(today, join_table(small_world.table, today), ModelSettings(name), ImageSettings())


@pytest.mark.parametrize("part", ["partial", "full"])
def test_what_is_taken_over(today, small_world, yesterday, part):
    model, start = fresh(today, small_world), fresh(today, small_world).state_dict()
    WarmUp(yesterday, part, today)(model)
    earlier = load_file(yesterday / "model.safetensors")
    vocabulary = {
        (feature, own): code
        for feature, own, code in pl.read_parquet(yesterday / "vocabulary.parquet")
        .select("feature", "id", "code")
        .iter_rows()
    }
    for name, weight in model.state_dict().items():
        if not name.startswith("ids."):
            assert torch.equal(weight, earlier[name])
        elif part != "full":
            assert torch.equal(weight, start[name])
    if part != "full":
        return
    moved = taken = new = 0
    users, items = today.dataset.clicks["user_id"], today.dataset.items["item_id"]
    for feature, codes, ids in (("user", today.user_code, users), ("item", today.item_code, items)):
        weight, before = model.ids[feature].weight, earlier[f"ids.{feature}.weight"]
        assert torch.equal(weight[UNKNOWN], before[UNKNOWN])
        for code, own in zip(codes.tolist(), ids, strict=True):
            if code < FIRST_KNOWN:
                continue
            then = vocabulary.get((feature, own))
            expected = start[f"ids.{feature}.weight"][code] if then is None else before[then]
            assert torch.equal(weight[code], expected)
            taken, new, moved = taken + (then is not None), new + (then is None), moved + (then not in (None, code))
    assert taken and new and moved


def test_the_command_warms_up_and_the_run_can_be_read(small_world, yesterday, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    scores = {}
    for part in ("partial", "full"):
        arguments = ["--data.train_from", "0.5", "--warm_up", yesterday, "--warm_up_part", part]
        train(small_world, yesterday.parent, tmp_path / part, *arguments)
        model, data, _ = load_run(tmp_path / part)
        assert len(data.rows["train"]) and not model.training
        scores[part] = (tmp_path / part / "test_scores.npy").read_bytes()
    train(small_world, yesterday.parent, tmp_path / "cold", "--data.train_from", "0.5")
    scores["cold"] = (tmp_path / "cold" / "test_scores.npy").read_bytes()
    assert len(set(scores.values())) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.name", "dssm"], "weights by trigram, which are numbered anew in each training"),
        (
            ["--image.form", "cluster_id", "--image.cluster_id.clusters", "[2]"],
            "weights by cluster, which are",
        ),
    ],
)
def test_weights_of_codes_that_changed_are_refused(small_world, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", [])
    write_table(tmp_path / "table", small_world.table.ids, small_world.table.vectors, {})
    train(small_world, tmp_path, tmp_path / "first", *arguments)
    with pytest.raises(SystemExit):
        train(small_world, tmp_path, tmp_path / "second", *arguments, "--warm_up", tmp_path / "first")
    assert said in " ".join(capsys.readouterr().err.split())


def test_gates_start_from_those_of_the_same_categories_alone(small_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    write_table(tmp_path / "table", small_world.table.ids, small_world.table.vectors, {})
    gated = ["--image.gate", "true"]
    train(small_world, tmp_path, tmp_path / "first", *gated)
    train(small_world, tmp_path, tmp_path / "same", *gated, "--warm_up", tmp_path / "first")
    kept = pl.read_parquet(tmp_path / "first" / "vocabulary.parquet")
    other = pl.when(feature="category").then(pl.col("id") + " of another shop").otherwise("id")
    kept.with_columns(id=other).write_parquet(tmp_path / "first" / "vocabulary.parquet")
    summary = read_json(tmp_path / "first" / "summary.json")
    write_json(tmp_path / "first" / "summary.json", summary | {"vocabulary": None})
    with pytest.raises(SystemExit):
        train(small_world, tmp_path, tmp_path / "other", *gated, "--warm_up", tmp_path / "first")
    assert "weights by category, which are others there; remove --warm_up" in " ".join(capsys.readouterr().err.split())


def test_another_model_is_refused(today, small_world, yesterday, tmp_path):
    with pytest.raises(UserError, match="different model"):
        WarmUp(yesterday, "partial", today)(fresh(today, small_world, "embedding_mlp"))
    with pytest.raises(UserError, match="name a run"):
        WarmUp(tmp_path, "full", today)(fresh(today, small_world))
    with pytest.raises(UserError, match="warm_up_part is 'full', but there is no --warm_up RUN"):
        RunSettings(dataset="d", out="o", warm_up_part="full")
