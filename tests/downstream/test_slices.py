"""Slices against a loop over the impressions."""

import numpy as np

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
