"""Slices against a loop over the impressions."""

import shutil

import numpy as np
import polars as pl
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from downstream.comparison.looks import covered, part_of_test
from downstream.data.ctr_data import load_ctr_data
from downstream.data.segments import slices
from downstream.settings import DataSettings


def test_every_impression_is_in_one_part_of_each_dimension(world):
    data = load_ctr_data(world.folder, DataSettings(history=5))
    found = slices(data, "test")
    assert {"popularity", "history length", "category"} <= found.keys()
    for dimension, parts in found.items():
        assert np.stack(list(parts.values())).sum(axis=0).min() == 1, dimension
        assert sum(mask.sum() for mask in parts.values()) == len(data.rows["test"]), dimension


def test_parts_hold_what_they_name(world):
    data = load_ctr_data(world.folder, DataSettings(history=5))
    found, rows = slices(data, "test"), data.rows["test"]
    trained = data.dataset.impressions.filter(split="train")["item"].to_list()
    cold = found["popularity"]["0 training impressions"]
    assert cold.tolist() == [trained.count(item) == 0 for item in data.item[rows]]
    assert np.array_equal(cold, data.slices("test")["cold"])
    lengths = data.dataset.impressions.filter(split="test")["clicks_before"].to_numpy()
    assert np.array_equal(found["history length"]["5 to 19 clicks"], (lengths >= 5) & (lengths < 20))
    hats = data.dataset.items["category"].to_numpy()[data.item[rows]] == "hats"
    assert np.array_equal(found["category"]["hats"], hats)


def test_item_age_is_in_days(tiny_world):
    data = load_ctr_data(tiny_world / "dataset", DataSettings(history=5))
    found, rows = slices(data, "test"), data.rows["test"]
    shown = data.dataset.impressions
    first = data.dataset.items["first_seen"].to_numpy()[data.item[rows]]
    days = (shown["timestamp"].to_numpy()[rows] - first) / 86_400
    assert np.array_equal(found["item age"]["3 to 6 days"], (days >= 3) & (days < 7))


@pytest.fixture
def timed(tiny_world, tmp_path):
    """The dataset with times in another unit, and one item whose first appearance is unknown."""

    def make(unit):
        folder = tmp_path / unit
        shutil.copytree(tiny_world / "dataset", folder, ignore=shutil.ignore_patterns(".arrays"))
        factor = 1000 if unit == "milliseconds" else 1
        for name, column in (("impressions", "timestamp"), ("items", "first_seen")):
            table = pl.read_parquet(folder / f"{name}.parquet").with_columns(pl.col(column) * factor)
            if name == "items":
                table = table.with_columns(first_seen=pl.when(pl.col("item") > 0).then("first_seen"))
            table.write_parquet(folder / f"{name}.parquet")
        info = read_json(folder / "dataset.json") | {"time_unit": unit}
        write_json(folder / "dataset.json", {name: value for name, value in info.items() if name != "tables"})
        return load_ctr_data(folder, DataSettings(history=5))

    return make


def test_days_do_not_depend_on_the_unit_of_times(timed):
    seconds, milliseconds = timed("seconds"), timed("milliseconds")
    ages, same = slices(seconds, "test")["item age"], slices(milliseconds, "test")["item age"]
    assert ages.keys() == same.keys() >= {"3 to 6 days", "unknown"}
    assert all(np.array_equal(ages[name], same[name]) for name in ages)
    assert np.array_equal(ages["unknown"], seconds.item[seconds.rows["test"]] == 0)
    assert covered(seconds) == covered(milliseconds)
    parts = [part_of_test(data, [], [0, 1])[0].rows["test"] for data in (seconds, milliseconds)]
    assert np.array_equal(*parts) and 0 < len(parts[0]) < len(seconds.rows["test"])


def test_times_that_are_an_order_have_no_days(timed):
    data = timed("order")
    assert "item age" not in slices(data, "test")
    assert covered(data) == f"{len(data.rows['test']):,} impressions"
    with pytest.raises(UserError, match=r"test_days is \[0, 1\], but the times of .* are an order: remove it"):
        part_of_test(data, [], [0, 1])
