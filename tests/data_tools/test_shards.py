import json

import numpy as np
import polars as pl
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json
from data_tools.dataset.schema import open_dataset
from data_tools.sharding.write import Settings, write_shards
from pretrain.data.stream import read_shard


@pytest.fixture(scope="module")
def read(tiny_world):
    """All shards of the tiny world: file name -> (images, records)."""
    return {file.name: read_shard(file) for file in sorted((tiny_world / "shards").glob("*.tar"))}


def requests_in(read, split=""):
    return [record for name, (_, records) in read.items() if name.startswith(f"requests-{split}") for record in records]


def test_every_request_shard_is_self_contained(read):
    for name, (images, records) in read.items():
        if name.startswith("requests-"):
            mentioned = {item for record in records for item in record["history"] + record["page"]}
            assert set(images) == mentioned


def test_history_holds_the_clicks_strictly_before_the_page_view(read, tiny_world):
    rows = open_dataset(tiny_world / "dataset").impressions
    logged = {}
    for row in rows.iter_rows(named=True):
        logged.setdefault(row["user"], []).append((row["timestamp"], row["item"], row["click"]))
    pages = {key[0]: frame for key, frame in rows.group_by("request")}
    for record in requests_in(read):
        page = pages[record["request"]]
        start = page["timestamp"].min()
        before = [(time, item) for time, item, click in logged[page["user"][0]] if click and time < start]
        assert record["history"] == [item for _, item in before][-30:]
        assert record["page"] == page["item"].to_list()
        assert record["click"] == page["click"].to_list()
    assert len(pages) > 500


def test_no_usable_request_is_lost(read, tiny_world):
    pages = (
        open_dataset(tiny_world / "dataset").impressions.group_by("request").agg(first=pl.col("clicks_before").min())
    )
    index = read_json(tiny_world / "shards" / "index.json")
    assert len(requests_in(read)) == (pages["first"] > 0).sum()
    assert index["left_out_requests"] == (pages["first"] == 0).sum()


def test_seen_means_in_some_training_request(read):
    trained = {item for record in requests_in(read, "train") for item in record["history"] + record["page"]}
    for record in requests_in(read, "test"):
        assert record["seen"] == [int(item in trained) for item in record["page"]]


def test_catalogue_shards_hold_each_picture_once(read, tiny_world):
    items = [record for name, (_, records) in read.items() if name.startswith("items-") for record in records]
    catalogue = open_dataset(tiny_world / "dataset").items
    assert [record["item_id"] for record in items] == catalogue["item_id"].to_list()
    assert [record["title"] for record in items] == catalogue["title"].to_list()


def test_same_seed_same_bytes(tiny_world, tmp_path):
    for name in ("a", "b"):
        write_shards(Settings(dataset=str(tiny_world / "dataset"), out=str(tmp_path / name), smallest_shard=20))
    first, second = ([digest([file]) for file in sorted((tmp_path / name).glob("*"))] for name in ("a", "b"))
    assert first == second


def test_a_dataset_without_pictures_is_refused(tiny_world, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    source = open_dataset(tiny_world / "dataset")
    (folder / "dataset.json").write_text(json.dumps(source.info))
    source.items.with_columns(image=pl.lit(None, pl.String)).write_parquet(folder / "items.parquet")
    source.impressions.write_parquet(folder / "impressions.parquet")
    source.clicks.write_parquet(folder / "clicks.parquet")
    with pytest.raises(UserError, match="none of"):
        write_shards(Settings(dataset=str(folder), out=str(tmp_path / "shards")))
    assert not (tmp_path / "shards").exists()


def test_mix_of_categories_is_random_within_a_shard(read):
    orders = [
        [r["request"] for r in records] for name, (_, records) in read.items() if name.startswith("requests-train")
    ]
    assert any(not np.all(np.diff(order) > 0) for order in orders)
