"""Batches against a loop over samples; what training has not shown gets no code of its own."""

import re
import shutil

import numpy as np
import polars as pl
import pytest

from data_tools.common.cli import UserError
from downstream.data import ctr_data
from downstream.data.ahead import batches_ahead, loader_threads
from downstream.data.codes import FIRST_KNOWN, PADDING, UNKNOWN
from downstream.data.ctr_data import load_ctr_data, mask_ids
from downstream.settings import DataSettings
from tests.edited import put_table

HISTORY = 7


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=HISTORY, words=6, title_words=4))


def test_batches_equal_a_loop_over_samples(data):
    rows = np.random.default_rng(0).permutation(len(data.click))[:200]
    batch = data.batch(rows)
    shown = data.dataset.impressions.to_dicts()
    clicks = data.dataset.clicks.to_dicts()
    assert np.array_equal(batch["row"], np.unique(batch["row"]))
    for place, row in enumerate(rows):
        one = shown[row]
        before = [
            item
            for item, time in zip(clicks[one["user"]]["items"], clicks[one["user"]]["timestamps"], strict=True)
            if time < one["timestamp"]
        ]
        assert batch["click"][place] == one["click"]
        assert batch["row"][batch["target"][place]] == one["item"]
        history = batch["row"][batch["history"][place][batch["mask"][place]]]
        assert history.tolist() == before[::-1][:HISTORY]
        assert np.array_equal(batch["mask"][place], np.arange(HISTORY) < len(before))
        assert (batch["history"][place][~batch["mask"][place]] == 0).all()


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_batches_made_ahead_are_the_same_whatever_the_threads(data, threads):
    parts = np.array_split(np.random.default_rng(2).permutation(len(data.click)), 40)
    made = list(batches_ahead(data, iter(parts), threads))
    assert len(made) == 40
    for rows, batch in zip(parts, made, strict=True):
        wanted = data.batch(rows)
        assert batch.keys() == wanted.keys() and all(np.array_equal(batch[name], wanted[name]) for name in wanted)


def test_threads_are_those_asked_for_or_the_cores_that_are_left(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert [loader_threads(6), loader_threads(None), loader_threads(None, 4), loader_threads(None, 16)] == [6, 4, 2, 1]


def test_rows_of_one_user_history_and_scene_share_a_context(data):
    rows = np.random.default_rng(1).permutation(len(data.click))[:300]
    batch = data.batch(rows)
    shown = [(one["user"], one["clicks_before"], one.get("scene")) for one in data.dataset.impressions[rows].to_dicts()]
    assert len(set(shown)) == len(batch["first"]) < len(rows)
    for place, one in enumerate(shown):
        assert shown[batch["first"][batch["context"][place]]] == one


def test_a_batch_holds_each_item_once_and_nothing_else(data):
    batch = data.batch(data.rows["test"][:50])
    mentioned = np.concatenate([batch["target"], batch["history"][batch["mask"]]])
    assert np.array_equal(np.unique(mentioned), np.arange(len(batch["row"])))


@pytest.mark.parametrize("split", ["train", "test"])
def test_items_found_by_marking_and_by_sorting_are_the_same(data, split, monkeypatch):
    rows, batches = data.rows[split][:40], []
    for most in (0, 1 << 30):
        monkeypatch.setattr(ctr_data, "CATALOGUE_PER_MENTION", most)
        batches.append(data.batch(rows))
    for sorted_, marked in zip(batches[0].values(), batches[1].values(), strict=True):
        assert sorted_.dtype == marked.dtype and np.array_equal(sorted_, marked)


def test_codes_come_from_training_impressions_alone(data):
    trained = data.dataset.impressions.filter(pl.col("split") == "train")
    shown = set(trained["item"])
    assert {int(item) for item in np.flatnonzero(data.warm)} == shown
    for item in range(len(data.item_code)):
        assert (data.item_code[item] >= FIRST_KNOWN) == (item in shown)
        assert data.item_code[item] != PADDING
    known = data.item_code[data.warm]
    assert sorted(known) == list(range(FIRST_KNOWN, data.sizes["item"]))


def test_title_words_are_the_most_frequent_of_training_items(data):
    items = data.dataset.items
    titles = [re.findall(r"\w+", title.lower()) for title in items["title"]]
    counts: dict[str, int] = {}
    for row in np.flatnonzero(data.warm):
        for word in set(titles[row]):
            counts[word] = counts.get(word, 0) + 1
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[:6]
    for row, title in enumerate(titles):
        words = [word for word in dict.fromkeys(title) if word in vocabulary][:4]
        expected = [vocabulary.index(word) + FIRST_KNOWN for word in words]
        assert data.words[row].tolist() == expected + [PADDING] * (4 - len(expected))


def test_warm_and_cold_part_the_test_split(data):
    parts = data.slices("test")
    assert parts["cold"].any() and parts["warm"].any()
    assert np.array_equal(parts["warm"], ~parts["cold"])
    assert not data.slices("train")["cold"].any()


def test_an_item_is_masked_everywhere_in_a_batch_or_nowhere(data):
    batch = data.batch(data.rows["train"])
    hidden = mask_ids(batch, 0.3, np.random.default_rng(0))
    for key in ("user", "item"):
        assert 0.1 < (hidden[key] == UNKNOWN).mean() < 0.5
        kept = hidden[key] != UNKNOWN
        assert np.array_equal(hidden[key][kept], batch[key][kept])
    assert mask_ids(batch, 0.0, np.random.default_rng(0))["item"].tolist() == batch["item"].tolist()


def test_missing_columns_and_scenes(small_world, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("impressions", "clicks", "items"):
        frame = pl.read_parquet(small_world.folder / f"{name}.parquet")
        if name == "items":
            frame = frame.drop("title", "category")
        if name == "impressions":
            frame = frame.with_columns(
                scene=pl.when(pl.col("split") == "test").then(pl.lit("app")).otherwise(pl.lit("web"))
            )
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text((small_world.folder / "dataset.json").read_text())
    data = load_ctr_data(folder, DataSettings(history=3))
    batch = data.batch(data.rows["test"])
    assert (batch["category"] == UNKNOWN).all() and (batch["words"] == PADDING).all()
    assert (batch["scene"] == UNKNOWN).all()
    assert (data.batch(data.rows["train"])["scene"] == FIRST_KNOWN).all()


def test_a_split_of_one_class_is_refused(small_world, tmp_path):
    folder = tmp_path / "clickless"
    folder.mkdir()
    for name in ("impressions", "clicks", "items"):
        frame = pl.read_parquet(small_world.folder / f"{name}.parquet")
        if name == "impressions":
            frame = frame.with_columns(click=pl.when(pl.col("split") == "valid").then(0).otherwise("click"))
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text((small_world.folder / "dataset.json").read_text())
    with pytest.raises(UserError, match=r"0 clicks in .* 'valid'"):
        load_ctr_data(folder, DataSettings())


def test_conversions_are_carried_and_unknown_ones_are_nan(tiny_world, tmp_path):
    shutil.copytree(tiny_world / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns("images"))
    shown = pl.read_parquet(tmp_path / "dataset" / "impressions.parquet").with_columns(
        conversion=pl.when(pl.int_range(pl.len()) % 5 > 0).then(pl.col("conversion"))
    )
    put_table(tmp_path / "dataset", "impressions", shown)
    data = load_ctr_data(tmp_path / "dataset", DataSettings(history=3))
    rows = data.rows["test"][::-1]
    expected = shown["conversion"].gather(rows).to_list()
    assert [None if np.isnan(one) else int(one) for one in data.batch(rows)["conversion"]] == expected
    assert None in expected and 1 in shown["conversion"].to_list()
