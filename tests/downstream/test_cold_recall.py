"""Recall of cold items by vectors alone: by brute force, and with intervals that count users and encoders."""

from dataclasses import replace

import numpy as np
import pytest

from data_tools.tables.table import read_table, write_table
from downstream.comparison.cells import Cell, Row
from downstream.comparison.cold_recall import cold_clicks, cold_recall, found_items
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.training.settings import TrainingSettings

SPEC = ComparisonSpec("ids", "courier", ["vector"])


@pytest.fixture(scope="module")
def data(world):
    return load_ctr_data(world.folder, DataSettings(history=10))


@pytest.fixture(scope="module")
def tables(world, tmp_path_factory):
    """Planted vectors, the same with some noise, and random ones that lack four items."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    vectors = {"planted": world.table.vectors, "random": world.random.vectors[4:]}
    vectors["noisy"] = world.table.vectors + rng.normal(0, 1.0, world.table.vectors.shape).astype("f4")
    for name, own in vectors.items():
        write_table(folder / name, world.table.ids[-len(own) :], own, {})
    return folder


def test_recall_is_that_of_a_loop_over_the_clicks(data, tables):
    clicks = cold_clicks(data)
    items = data.dataset.impressions["item"].to_numpy()
    assert len(clicks) > 100 and not data.warm[items[clicks]].any() and data.click[clicks].all()
    vectors = {}
    for name, lacking in (("planted", 0), ("random", 4)):
        hits = found_items(tables / name, data, clicks, k=20)
        vectors[name] = hits.mean()
        own, found = data_vectors(tables / name, data)
        unit = own / np.linalg.norm(own, axis=1, keepdims=True).clip(1e-12)
        apart = unit - unit[found & data.warm].mean(axis=0)
        apart[~found] = 0
        apart /= np.linalg.norm(apart, axis=1, keepdims=True).clip(1e-12)
        for click, hit in list(zip(clicks, hits, strict=True))[::7]:
            user, before = data.user[click], data.clicks_before[click]
            past = data.clicked[data.offsets[user] : data.offsets[user] + before][-10:]
            score = apart @ apart[past].mean(axis=0)
            near = np.argsort(-score, kind="stable")[:20]
            assert hit == (items[click] in near and found[items[click]])
        assert (~found).sum() == lacking
    assert vectors["planted"] > 1.5 * 20 / 160 > vectors["random"]


def data_vectors(table, data):
    vectors, found = read_table(table).lookup(data.item_ids)
    return vectors.astype(np.float64), found


def rows(tables, **of_source):
    training = TrainingSettings()
    return [
        Row(Cell(source, "vector", "dicm", seed, table and tables / table, training, encoder), {}, np.zeros(1))
        for source, names in of_source.items()
        for encoder, table in enumerate(names)
        for seed in (0, 1)
    ]


def test_the_interval_counts_users_and_encoders(data, tables):
    settings = BootstrapSettings(resamples=200)
    given = rows(tables, ids=[None], random=["random"], courier=["planted", "noisy"])
    found = {one["source"]: one for one in cold_recall(given, data, SPEC, settings).to_dicts()}
    assert set(found) == {"random", "courier"}
    clicks = cold_clicks(data)
    hits = [found_items(tables / name, data, clicks).mean() for name in ("planted", "noisy")]
    assert found["courier"]["mean"] == pytest.approx(np.mean(hits)) and found["courier"]["over"] is None
    assert found["random"]["over"] == pytest.approx(found["courier"]["mean"] - found["random"]["mean"])
    assert found["random"]["over_low"] < found["random"]["over"] < found["random"]["over_high"]
    alone = cold_recall(rows(tables, courier=["planted"]), data, SPEC, settings).to_dicts()[0]
    own = found_items(tables / "planted", data, clicks)
    people = np.unique(data.user[clicks], return_inverse=True)[1]
    sums, counts = np.bincount(people, own - own.mean()), len(own)
    error = np.sqrt((sums**2).sum()) / counts  # linearised, over users
    assert alone["high"] - alone["low"] == pytest.approx(2 * 1.97 * error, rel=0.15)
    apart = cold_recall(rows(tables, courier=["planted", "random"]), data, SPEC, settings).to_dicts()[0]
    assert apart["high"] - apart["low"] > 3 * (alone["high"] - alone["low"])  # the two encoders differ much


def test_without_cold_clicks_there_is_nothing(data, tables):
    warm = replace(data, warm=np.ones_like(data.warm))
    assert cold_recall(rows(tables, courier=["planted"]), warm, SPEC, BootstrapSettings(resamples=5)).is_empty()
