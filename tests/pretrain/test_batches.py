import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from data_tools.sharding.files import FORMAT_VERSION
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from pretrain.data import stream as batches
from pretrain.data.stream import loader, read_index, request_batch
from pretrain.settings import Batch

SETTINGS = Batch(rows=16, history=5, slots=4, workers=0)


def take(stream, count):
    return [batch for batch, _ in zip(stream, range(count), strict=False)]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def records(tiny_world):
    images, requests = batches.read_shard(tiny_world / "shards" / "requests-train-00000.tar")
    return images, requests[:16]


def test_batch_says_what_the_requests_say(records):
    images, requests = records
    batch = request_batch(records, batches.plain_transform(32), history=5, slots=4)
    for row, request in enumerate(requests):
        clicked = request["history"][-5:]
        assert batch["history"][row].tolist()[: 5 - len(clicked)] == [-1] * (5 - len(clicked))
        assert batch["image_item"][batch["history"][row, 5 - len(clicked) :]].tolist() == clicked
        assert batch["image_item"][batch["page"][row, : len(request["page"])]].tolist() == request["page"]
        assert batch["click"][row, : len(request["page"])].tolist() == request["click"]
        assert (batch["page"][row, len(request["page"]) :] == -1).all()
        assert int(batch["fresh"][row]) == min(request["fresh"], 5)
    item = int(batch["image_item"][0])
    expected = torch.tensor(list(Image.open(io.BytesIO(images[item])).convert("RGB").tobytes()), dtype=torch.uint8)
    assert torch.equal(batch["images"][0], expected.view(32, 32, 3).permute(2, 0, 1))


def test_each_distinct_picture_is_decoded_once(records, monkeypatch):
    decoded = []
    picture = Image.new("RGB", (32, 32))
    monkeypatch.setattr(batches, "read_image", lambda data, at_least: decoded.append(data) or picture)
    batch = request_batch(records, batches.plain_transform(32), history=5, slots=4)
    mentioned = {item for request in records[1] for item in request["history"][-5:] + request["page"]}
    assert len(decoded) == len(mentioned) == len(batch["images"])
    assert len(batch["image_item"].unique()) == len(batch["image_item"])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_batches_that_were_to_come(tiny_world, workers):
    settings = Batch(rows=16, history=5, slots=4, workers=workers)
    arguments = (tiny_world / "shards", "requests", settings, 32, 7)
    whole = take(loader(*arguments), 9)
    resumed = take(loader(*arguments, start=5), 4)
    assert all(same(first, second) for first, second in zip(whole[5:], resumed, strict=True))


def requests_seen(stream, count):
    """Requests of a stream's next batches."""
    stream.collate = lambda encoded: [request["request"] for request in encoded[1]]
    return [request for batch in take(stream, count) for request in batch]


def test_processes_share_an_epoch_without_overlap_and_lose_nothing(tiny_world):
    requests = sum(shard["requests"] for shard in read_index(tiny_world / "shards")["requests"]["train"])
    settings = Batch(rows=2, workers=0)  # one row a process: an epoch ends with no rest
    streams = [loader(tiny_world / "shards", "requests", settings, 32, 7, process, 2).dataset for process in range(2)]
    shared = [
        requests_seen(stream, sum(len(batches.read_shard(file)[1]) for file in files_of(stream))) for stream in streams
    ]
    assert len(shared[0]) + len(shared[1]) == requests
    assert len(set(shared[0]) | set(shared[1])) == requests


def files_of(stream):
    """The files a stream's process reads in its first epoch."""
    order = np.random.default_rng([stream.seed, 0]).permutation(len(stream.files))
    return [stream.files[shard] for shard in order[stream.process :: stream.processes]]


def test_rests_of_shards_fill_batches_together(tiny_world):
    index = read_index(tiny_world / "shards")["requests"]["train"]
    requests = sum(shard["requests"] for shard in index)
    rows = max(shard["requests"] for shard in index) - 1  # every shard leaves a rest, most fill no batch alone
    stream = loader(tiny_world / "shards", "requests", Batch(rows=rows, workers=0), 32, 7).dataset
    seen = requests_seen(stream, requests // rows)
    assert len(seen) == len(set(seen)) == requests // rows * rows


def test_fewer_requests_than_a_batch_still_fill_one(tiny_world):
    batch = next(iter(loader(tiny_world / "shards", "requests", Batch(rows=1024, workers=0), 32, 7)))
    assert len(batch["page"]) == 1024


def test_only_the_rests_of_shards_mix_categories(tiny_world, tmp_path):
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "pure"), smallest_shard=16))
    category = {}
    for file in (tiny_world / "shards").glob("items-*.tar"):
        category |= {record["item"]: record["category"] for record in batches.read_shard(file)[1]}
    stream = loader(tmp_path / "pure", "requests", SETTINGS, 32, 7).dataset
    stream.collate = lambda encoded: {category[item] for request in encoded[1] for item in request["page"]}
    sizes = [shard["requests"] for shard in read_index(tmp_path / "pure")["requests"]["train"]]
    found = take(stream, sum(sizes) // 16)
    assert sum(len(categories) == 1 for categories in found) >= sum(size // 16 for size in sizes)


def test_shards_smaller_than_a_batch_keep_categories_apart(tiny_world, tmp_path):
    small = {"requests_per_shard": 24, "smallest_shard": 8}
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "small"), **small))
    listed = read_index(tmp_path / "small")["requests"]["train"]
    category = {}
    for shard in listed:
        records = batches.read_shard(tmp_path / "small" / shard["file"])[1]
        category |= {record["request"]: shard["category"] for record in records}
    stream = loader(tmp_path / "small", "requests", Batch(rows=32, workers=0), 32, 7).dataset
    stream.collate = lambda encoded: [request["request"] for request in encoded[1]]
    rests = len({shard["category"] for shard in listed})
    found = take(stream, sum(shard["requests"] for shard in listed) // 32 - rests)
    assert all(len({category[request] for request in batch}) == 1 for batch in found)
    seen = [request for batch in found for request in batch]
    assert len(seen) == len(set(seen)) > 300


def test_large_jpegs_are_decoded_small_and_look_the_same():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (20, 15, 3), dtype=np.uint8)).resize((1200, 1600))
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=90)
    whole = torch.from_numpy(np.asarray(smooth).copy()).permute(2, 0, 1)
    for transform in (batches.plain_transform(64), batches.training_transform(Batch(crop_scale=0.6), 64)):
        picture = transform.decode(file.getvalue())
        assert picture.shape == (3, 200, 150)
    expected = batches.plain_transform(64)(whole).float()
    found = batches.plain_transform(64)
    difference = (found(found.decode(file.getvalue())).float() - expected).abs()
    assert difference.mean() < 1 and difference.max() < 8


def test_small_crops_keep_their_pixels():
    assert batches.training_transform(Batch(crop_scale=0.08), 64).at_least >= 64 / (0.08 * 0.75) ** 0.5
    assert batches.training_transform(Batch(crop_scale=1), 64).at_least == 128


@pytest.mark.parametrize("streams", [1, 3, 4])
def test_batches_do_not_depend_on_the_number_of_workers(tiny_world, streams):
    found = []
    for workers in (0, 2, 3):
        settings = Batch(rows=16, history=5, slots=4, workers=workers, shard_streams=streams)
        found.append(take(loader(tiny_world / "shards", "requests", settings, 32, 7, start=2), 5))
    for other in found[1:]:
        assert all(same(first, second) for first, second in zip(found[0], other, strict=True))


def test_a_batch_mixes_as_many_categories_as_it_is_told(tiny_world, tmp_path):
    """Equal parts from each, every request once an epoch, and the same after a stop."""
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "pure"), smallest_shard=1))
    category = {}
    for shard in read_index(tmp_path / "pure")["requests"]["train"]:
        for request in batches.read_shard(tmp_path / "pure" / shard["file"])[1]:
            category[request["request"]] = shard["category"]
    stream = loader(tmp_path / "pure", "requests", Batch(rows=12, workers=0, categories=3), 32, 7).dataset
    seen = requests_seen(stream, len(category) // 12)
    counts = [Counter(category[request] for request in seen[row : row + 12]) for row in range(0, len(seen), 12)]
    assert sum(sorted(count.values()) == [4, 4, 4] for count in counts) >= 0.9 * len(counts)
    assert len(set(seen)) >= 0.9 * len(category)
    stream = loader(tmp_path / "pure", "requests", Batch(rows=12, workers=0, categories=3), 32, 7, start=4).dataset
    assert requests_seen(stream, 3) == seen[4 * 12 : 7 * 12]


def test_rows_must_divide_over_categories(tiny_world):
    with pytest.raises(UserError, match="5 categories"):
        loader(tiny_world / "shards", "requests", Batch(rows=16, categories=5), 32, 7)


def test_two_views_of_the_same_catalogue_pictures(tiny_world):
    batch = next(iter(loader(tiny_world / "shards", "items", SETTINGS, 32, 7)))
    assert batch["images"].shape == (32, 3, 32, 32)
    assert torch.equal(batch["image_item"][:16], batch["image_item"][16:])
    assert not torch.equal(batch["images"][:16], batch["images"][16:])


def test_too_few_shards_say_what_to_do(tiny_world):
    with pytest.raises(UserError, match=r"Lower batch.workers"):
        loader(tiny_world / "shards", "requests", Batch(rows=64, workers=32), 32, 7, 0, 2)


def test_rows_must_divide_over_processes(tiny_world):
    with pytest.raises(UserError, match="spread evenly"):
        loader(tiny_world / "shards", "requests", Batch(rows=15), 32, 7, 0, 2)


def test_a_short_shard_is_named(tmp_path):
    with wds.TarWriter(str(tmp_path / "items-00000.tar")) as tar:
        tar.write({"__key__": "1", "json": json.dumps({})})
    entry = {"file": "items-00000.tar", "bytes": 1, "items": 1}
    (tmp_path / "index.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "items": [entry], "requests": {}})
    )
    with pytest.raises(UserError, match=r"items-00000.tar has \d+ bytes, the index promises 1"):
        read_index(tmp_path)


def test_a_damaged_shard_is_named_where_digests_are_checked(tiny_world, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(tiny_world / "shards", folder)
    assert read_index(folder, digests=True) == read_index(folder)
    with open(folder / "requests-train-00001.tar", "r+b") as file:
        file.seek(700)
        file.write(b"\0\1")
    read_index(folder)
    with pytest.raises(UserError, match=r"requests-train-00001.tar has digest \w+, the index promises \w+"):
        read_index(folder, digests=True)


def test_shards_of_another_format_say_what_to_do(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"format_version": 1, "dataset": "my/dataset"}))
    with pytest.raises(UserError, match=r"shard format 1, 2 is read; .* anew with: .*--dataset my/dataset --out"):
        read_index(tmp_path)


def test_a_folder_without_shards_says_how_to_write_them(tmp_path):
    with pytest.raises(UserError, match=r"python -m data_tools.shards"):
        read_index(tmp_path)


def test_index_agrees_with_the_tars(tiny_world):
    index = read_json(tiny_world / "shards" / "index.json")
    for shard in index["requests"]["train"]:
        images, requests = batches.read_shard(tiny_world / "shards" / shard["file"])
        assert (len(images), len(requests)) == (shard["images"], shard["requests"])
