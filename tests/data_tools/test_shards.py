import json
import tarfile

import numpy as np
import polars as pl
import pytest
import webdataset as wds

from data_tools.common.cli import UserError
from data_tools.common.files import digest
from data_tools.dataset.schema import SPLITS, open_dataset
from data_tools.sharding.files import read_index, read_shard
from data_tools.sharding.read import all_records, open_shards
from data_tools.sharding.write import Settings, write_shards
from tests.edited import put_table


def requests_in(shards, *splits):
    opened = open_shards(shards)
    return [record for split in splits or SPLITS for record in all_records(opened, split)]


def test_every_streamed_shard_is_self_contained(streaming_shards):
    files = list(streaming_shards.glob("requests-*.tar"))
    assert len(files) > 3
    for file in files:
        images, records = read_shard(file)
        assert set(images) == {item for record in records for item in record["history"] + record["page"]}


def test_both_layouts_hold_the_same(tiny_world, streaming_shards):
    once, repeated = open_shards(tiny_world / "shards"), open_shards(streaming_shards)
    for split in SPLITS:
        groups = [[(g["requests"], g["category"]) for g in shards.listed(split)] for shards in (once, repeated)]
        assert groups[0] == groups[1]
        assert list(all_records(once, split)) == list(all_records(repeated, split))
    assert list(all_records(once, "items")) == list(all_records(repeated, "items"))
    images, records = repeated.read("train", 0)
    assert all(once.pictures("train")[item] == data for item, data in images.items()) and records


def test_a_picture_is_stored_once(tiny_world):
    dataset, folder = open_dataset(tiny_world / "dataset"), tiny_world / "shards"
    names = []
    for file in folder.glob("items-*.tar"):
        with tarfile.open(file) as tar:
            names += tar.getnames()
    assert len(names) == len(set(names)) == len(dataset.items)
    pictures = open_shards(folder).pictures("items")
    sizes = 0
    for row in dataset.items.iter_rows(named=True):
        data = (dataset.folder / row["image"]).read_bytes()
        assert pictures[row["item"]] == data
        sizes += len(data)
    # A tar adds a header and padding: 512 to 1,535 bytes a picture, and its end.
    tars = [file.stat().st_size for file in folder.glob("items-*.tar")]
    assert sum(tars) <= sizes + 1535 * len(names) + tarfile.RECORDSIZE * len(tars)


def test_webdataset_reads_the_tars(tiny_world):
    dataset = open_dataset(tiny_world / "dataset")
    urls = sorted(str(file) for file in (tiny_world / "shards").glob("items-*.tar"))
    found = {int(sample["__key__"]): sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False)}
    assert found == {
        row["item"]: (dataset.folder / row["image"]).read_bytes() for row in dataset.items.iter_rows(named=True)
    }


def test_history_holds_the_clicks_strictly_before_the_page_view(shards, tiny_world):
    rows = open_dataset(tiny_world / "dataset").impressions
    logged = {}
    for row in rows.iter_rows(named=True):
        logged.setdefault(row["user"], []).append((row["timestamp"], row["item"], row["click"]))
    pages = {key[0]: frame for key, frame in rows.group_by("request")}
    for record in requests_in(shards):
        page = pages[record["request"]]
        start = page["timestamp"].min()
        before = [(time, item) for time, item, click in logged[page["user"][0]] if click and time < start]
        assert record["history"] == [item for _, item in before][-30:]
        assert record["page"] == page["item"].to_list()
        assert record["click"] == page["click"].to_list()
    assert len(pages) > 500


def test_no_usable_request_is_lost(shards, tiny_world):
    pages = (
        open_dataset(tiny_world / "dataset").impressions.group_by("request").agg(first=pl.col("clicks_before").min())
    )
    index = read_index(shards)
    assert len(requests_in(shards)) == (pages["first"] > 0).sum()
    assert index["left_out_requests"] == (pages["first"] == 0).sum()


def test_seen_means_in_some_training_request(shards):
    trained = {item for record in requests_in(shards, "train") for item in record["history"] + record["page"]}
    tested = requests_in(shards, "test")
    for record in tested:
        assert record["seen"] == [int(item in trained) for item in record["page"]]
    assert {seen for record in tested for seen in record["seen"]} == {0, 1}


def test_the_catalogue_says_what_the_items_are(shards, tiny_world):
    items = list(all_records(open_shards(shards), "items"))
    catalogue = open_dataset(tiny_world / "dataset").items
    for name in ("item", "item_id", "title", "category"):
        assert [record[name] for record in items] == catalogue[name].to_list()


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_same_seed_same_bytes(tiny_world, tmp_path, layout):
    settings = {"dataset": str(tiny_world / "dataset"), "layout": layout, "smallest_shard": 20}
    for name in ("a", "b"):
        write_shards(Settings(out=str(tmp_path / name), **settings))
    first, second = ([digest([file]) for file in sorted((tmp_path / name).glob("*"))] for name in ("a", "b"))
    assert first == second


def test_a_dataset_without_pictures_is_refused(tiny_world, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    source = open_dataset(tiny_world / "dataset")
    (folder / "dataset.json").write_text(json.dumps(source.info))
    put_table(folder, "items", source.items.with_columns(image=pl.lit(None, pl.String)))
    put_table(folder, "impressions", source.impressions)
    put_table(folder, "clicks", source.clicks)
    with pytest.raises(UserError, match="none of"):
        write_shards(Settings(dataset=str(folder), out=str(tmp_path / "shards")))
    assert not (tmp_path / "shards").exists()


def test_mix_of_categories_is_random_within_a_group(shards):
    opened = open_shards(shards)
    orders = [[r["request"] for r in opened.records("train", g)] for g in range(len(opened.listed("train")))]
    assert any(not np.all(np.diff(order) > 0) for order in orders)
