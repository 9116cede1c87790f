"""CTR models trained, compared and scored from URLs are those of folders."""

import json

import numpy as np
import polars as pl
import pytest

import downstream.serving
from data_tools.common import storage
from data_tools.common.cache import local
from data_tools.common.cli import progress_bar
from data_tools.common.errors import UserError
from downstream import compare
from downstream.settings import DataSettings, OptimSettings
from downstream.training.run import RunSettings, train
from downstream.training.settings import TrainingDefaults


@pytest.fixture
def places(tiny_world, tmp_path, url_cache):
    """Dataset, table and log, here and at URLs."""
    log = pl.read_parquet(tiny_world / "dataset" / "impressions.parquet").filter(pl.col("split") == "test")
    log.select("user_id", "item_id", "timestamp", "click", "scene").write_csv(tmp_path / "log.csv")
    here = {"dataset": tiny_world / "dataset", "table": tiny_world / "planted", "log": tmp_path / "log.csv"}
    for name, place in here.items():
        storage.upload(place, f"memory://bucket/{name}{place.suffix}")
    there = {name: f"memory://bucket/{name}{place.suffix}" for name, place in here.items()}
    return {name: str(place) for name, place in here.items()}, there


def trained(places, out):
    small = {"data": DataSettings(history=8), "optim": OptimSettings(batch_size=64)}
    with progress_bar(shown=False) as progress:
        train(RunSettings(**small, dataset=places["dataset"], table=places["table"], out=str(out)), progress)
    return np.load(out / "test_scores.npy")


def test_training_and_scoring_from_urls_are_those_from_folders(places, tmp_path):
    here, there = places
    assert np.array_equal(trained(here, tmp_path / "here"), trained(there, tmp_path / "there"))
    assert json.loads((tmp_path / "there" / "summary.json").read_text())["settings"]["dataset"] == there["dataset"]
    downstream.serving.load(tmp_path / "here").score(here["log"], tmp_path / "scores.parquet")
    run = downstream.serving.load(tmp_path / "there")
    run.score(there["log"], "memory://bucket/scores.parquet")
    assert pl.read_parquet(local("memory://bucket/scores.parquet")).equals(pl.read_parquet(tmp_path / "scores.parquet"))
    with pytest.raises(UserError, match=r"memory://bucket/scores.parquet exists already"):
        run.score(there["log"], "memory://bucket/scores.parquet")
    with pytest.raises(UserError, match=r"memory://bucket/run: a run is a folder of this machine"):
        trained(there, "memory://bucket/run")


def test_a_comparison_of_urls_is_that_of_folders(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures = []
    for name, place in zip(("here", "there"), places, strict=True):
        small = {"data": DataSettings(history=8), "optim": OptimSettings(batch_size=64)}
        settings = compare.Settings(
            out=str(tmp_path / name),
            dataset=place["dataset"],
            sources={"ids": None, "mine": compare.Source(table=place["table"])},
            main="mine",
            ctr_seeds=[0],
            training=TrainingDefaults(**small),
        )
        compare.compare(settings, "")
        written = json.loads((tmp_path / name / "figures.json").read_text())
        figures.append(written["differences"])
    assert figures[0] == figures[1] and figures[0]
