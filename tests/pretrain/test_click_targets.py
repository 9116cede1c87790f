"""Every click is a target once over the training requests: counted from the log, not from what shards say."""

from collections import Counter

import polars as pl
import pytest

from data_tools.dataset.schema import open_dataset
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from pretrain.data.collate import request_batch
from pretrain.data.records import log_shares, records
from pretrain.data.transforms import Decoder, plain_transform
from pretrain.objectives.parts.targets import click_targets
from tests.edited import put_table


@pytest.fixture(scope="module")
def holed(tiny_world, tmp_path_factory):
    """Folder of the tiny world's dataset, where every seventh item has no picture, and of its shards."""
    folder = tmp_path_factory.mktemp("holed")
    source = open_dataset(tiny_world / "dataset")
    (folder / "dataset").mkdir()
    for name in ("dataset.json", "images", "impressions.parquet", "clicks.parquet"):
        (folder / "dataset" / name).symlink_to(tiny_world / "dataset" / name)
    pictured = pl.when(pl.col("item") % 7 > 0).then(pl.col("image"))
    put_table(folder / "dataset", "items", source.items.with_columns(image=pictured))
    write_shards(Shards(dataset=str(folder / "dataset"), out=str(folder / "shards"), requests_per_shard=64))
    return folder


@pytest.fixture(scope="module")
def log(holed):
    """What the log says of items with pictures: request -> user, and the user's items clicked before it; and split."""
    rows = open_dataset(holed / "dataset").impressions.filter(pl.col("item") % 7 > 0)
    clicks = [row for row in rows.iter_rows(named=True) if row["click"]]
    pages = {}
    for (request,), page in rows.group_by("request"):
        user, start = page["user"][0], page["timestamp"].min()
        before = [row["item"] for row in clicks if row["user"] == user and row["timestamp"] < start]
        pages[request] = {"user": user, "before": before, "split": page["split"][0]}
    return pages


def targets(folder, log, history):
    """Count (user, number of the click among the user's) of what training batches, one a group, have as targets."""
    found = Counter()
    shards, decoder = open_shards(folder / "shards"), Decoder(plain_transform(8), 10**8)
    for group in range(len(shards.listed("train"))):
        images, requests = shards.read("train", group)
        batch = request_batch((images, requests), decoder, history, slots=4)
        for row, target, earlier in zip(*click_targets(batch["history"], batch["fresh"]), strict=True):
            before = batch["image_item"][earlier[earlier >= 0]].tolist()
            if target >= 0 and before:
                page = log[requests[int(row)]["request"]]
                number = len(page["before"]) - int((batch["history"][row] >= 0).sum()) + len(before)
                assert page["before"][number - len(before) : number] == before
                assert page["before"][number] == int(batch["image_item"][target])
                found[page["user"], number] += 1
    return found


def test_every_click_is_a_target_once(holed, log):
    expected = {
        (page["user"], number)
        for page in log.values()
        for number in range(1, len(page["before"]))  # nothing is before the first
        if page["split"] == "train"
    }
    assert targets(holed, log, history=30) == dict.fromkeys(expected, 1)
    assert len(expected) > 500


def test_a_short_history_leaves_out_what_does_not_fit(holed, log):
    everything, found = targets(holed, log, history=30), targets(holed, log, history=3)
    assert set(found) < set(everything)
    assert set(found.values()) == {1}


def test_shares_are_those_of_the_targets(holed, log):
    clicks = [record["history"][-1] for record in records(holed / "shards", "requests") if record["fresh"]]
    _, share = log_shares(holed / "shards", history=1, slots=10)
    item, times = Counter(clicks).most_common(1)[0]
    unclicked = len(share) - len(set(clicks))
    assert float(share[item].exp()) == pytest.approx(times / (len(clicks) + unclicked))
