"""Until when the log reaches that a run saw: written by training, carried into tables and weights, and flagged."""

import shutil

import pytest

from data_tools.common.files import read_json, write_json
from data_tools.dataset.schema import open_dataset
from data_tools.tables.seen import NOTHING, latest, seen
from data_tools.tables.table import read_table
from downstream.compare import Settings as Comparison
from downstream.compare import compare
from downstream.comparison.sources import Source
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.training.settings import TrainingDefaults
from pretrain.encoder.families.tables import Table
from pretrain.export import Settings as Export
from pretrain.export import export
from pretrain.export_encoder import Settings as ExportEncoder
from pretrain.export_encoder import export_encoder
from pretrain.settings import Batch, Encoder, Evaluation, Optim, Settings
from pretrain.train import train
from pretrain.training.seen import seen_before_training, seen_in_training

ENCODER = Encoder(name="test_byobnet", dimensions=8, image_size=32)


@pytest.fixture(scope="module")
def run(tiny_world, tmp_path_factory):
    settings = Settings(
        data=str(tiny_world / "shards"),
        out=str(tmp_path_factory.mktemp("seen") / "run"),
        encoder=ENCODER,
        batch=Batch(rows=16, history=3, slots=4, workers=0),
        optim=Optim(steps=1, warmup=1, precision="fp32"),
        evaluation=Evaluation(every=1, requests=50, history=3),
    )
    train(settings)
    return settings


@pytest.fixture(scope="module")
def tables(run, tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen-tables")
    for weights in ("trained", "initial"):
        export(Export(data=run.data, out=str(folder / weights), run=run.out, weights=weights))
    return folder


@pytest.fixture(scope="module")
def before_test(tiny_world):
    """The last time before the test split."""
    return open_dataset(tiny_world / "dataset").info["splits"]["test_start"] - 1


def test_a_run_and_its_tables_say_what_they_saw(run, tables, tiny_world, before_test):
    first = open_dataset(tiny_world / "dataset").impressions["timestamp"].min()
    saw = read_json(f"{run.out}/run.json")["saw"]
    assert saw == {"from": first, "until": before_test, "initial": NOTHING}
    assert seen(read_table(tables / "trained").info) == before_test
    assert seen(read_table(tables / "initial").info) == NOTHING
    assert seen(read_table(tiny_world / "planted").info) == NOTHING


def test_what_starts_from_weights_or_vectors_has_seen_what_they_saw(run, tables, tmp_path, before_test):
    export_encoder(ExportEncoder(run=run.out, out=str(tmp_path / "encoder"), onnx=False))
    assert read_json(tmp_path / "encoder" / "encoder.json")["saw_until"] == before_test
    weights = Encoder(name="test_byobnet", weights=str(tmp_path / "encoder" / "model.safetensors"))
    assert seen_before_training(weights) == before_test
    on_vectors = Encoder(family="table", name=str(tables / "trained"), table=Table.Settings())
    assert seen_before_training(on_vectors) == before_test
    unknown = Encoder(name="test_byobnet", weights=f"{run.out}/best.safetensors")
    assert seen_before_training(unknown) is None
    earlier = Settings(data=run.data, out=run.out, encoder=weights)
    assert seen_in_training(earlier)["until"] == before_test


def test_a_whole_has_seen_the_latest_of_its_parts():
    assert latest([3, NOTHING, 7]) == 7
    assert latest([NOTHING]) == latest([]) == NOTHING
    assert latest([3, None]) is None
    assert seen({"saw_until": "who knows"}) is seen({}) is seen({"saw_until": True}) is None


@pytest.mark.parametrize("moved", [0, -1])
def test_a_comparison_flags_a_run_that_saw_its_test_split(tables, tiny_world, tmp_path, moved, before_test):
    shutil.copytree(tiny_world / "dataset", tmp_path / "dataset")
    info = open_dataset(tmp_path / "dataset").info
    info["splits"]["test_start"] += moved
    write_json(tmp_path / "dataset" / "dataset.json", info)
    settings = Comparison(
        out=str(tmp_path / "out"),
        dataset=str(tmp_path / "dataset"),
        sources={
            "ids": None,
            "untrained": Source(table=str(tables / "initial")),
            "courier": Source(table=str(tables / "trained")),
        },
        ctr_seeds=[0],
        training=TrainingDefaults(DataSettings(history=5), optim=OptimSettings(batch_size=512)),
        bootstrap=BootstrapSettings(resamples=20),
        cache=str(tmp_path / "cache"),
        pictures=False,
    )
    said = compare(settings, "")
    reason = f"COURIER appears to know test labels: table.json says that its training data reach until {before_test}"
    assert said.startswith(reason) == (moved < 0)
    assert "does not say until when" not in (tmp_path / "out" / "report.md").read_text()
