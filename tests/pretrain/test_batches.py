import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from data_tools.sharding.files import FORMAT_VERSION, read_index, read_shard
from data_tools.sharding.read import all_records, open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from pretrain.data import transforms
from pretrain.data.collate import request_batch
from pretrain.data.stream import loader
from pretrain.data.transforms import Decoder, plain_transform, training_transform
from pretrain.settings import Batch

SETTINGS = Batch(rows=16, history=5, slots=4, workers=0)


def take(stream, count):
    return [batch for batch, _ in zip(stream, range(count), strict=False)]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def records(shards):
    images, requests = open_shards(shards).read("train", 0)
    return images, requests[:16]


def test_batch_says_what_the_requests_say(records):
    images, requests = records
    batch = request_batch(records, Decoder(plain_transform(32)), history=5, slots=4)
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
    decode = transforms.Transform.decode
    monkeypatch.setattr(transforms.Transform, "decode", lambda self, data: decoded.append(data) or decode(self, data))
    batch = request_batch(records, Decoder(plain_transform(32)), history=5, slots=4)
    mentioned = {item for request in records[1] for item in request["history"][-5:] + request["page"]}
    assert len(decoded) == len(mentioned) == len(batch["images"])
    assert len(batch["image_item"].unique()) == len(batch["image_item"])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("requests", {}),
        ("requests", {"categories": 4, "shard_streams": 3}),
        ("requests", {"rows": 100}),  # every group leaves a rest
        ("items", {"colour_jitter": 0.2}),
    ],
)
def test_batches_are_the_same_in_both_layouts(tiny_world, streaming_shards, kind, settings):
    settings = Batch(**{"rows": 16, "history": 5, "slots": 4, "workers": 0, **settings})
    folders = (tiny_world / "shards", streaming_shards)
    for start in (0, 7):
        once, repeated = (take(loader(folder, kind, settings, 32, 7, start=start), 9) for folder in folders)
        assert all(same(first, second) for first, second in zip(once, repeated, strict=True))


@pytest.mark.parametrize("cache_mb", [0, 0.05])  # none, and a quarter of the pictures
def test_kept_pictures_are_those_that_are_decoded(tiny_world, cache_mb):
    kept, decoded = (
        take(loader(tiny_world / "shards", "requests", Batch(**{**vars(SETTINGS), "cache_mb": size}), 32, 7), 6)
        for size in (256, cache_mb)
    )
    assert all(same(first, second) for first, second in zip(kept, decoded, strict=True))


def test_the_cache_holds_no_more_than_it_may(records):
    decoder = Decoder(plain_transform(32), cache_bytes=10 * 3 * 32 * 32)
    items = sorted({item for request in records[1] for item in request["page"]})[:20]
    for item in items:
        decoder(records[0], item)
    assert list(decoder._kept) == items[-10:]


def test_a_picture_that_cannot_be_decoded_is_grey_and_named(records):
    images, requests = records
    broken = requests[0]["page"][0]
    held = {item: images[item] for request in requests for item in request["history"] + request["page"]}
    whole = request_batch((held, requests), Decoder(plain_transform(32)), history=5, slots=4)
    held[broken] = held[broken][:100]
    with pytest.warns(UserWarning, match=f"item {broken} cannot be decoded"):
        batch = request_batch((held, requests), Decoder(plain_transform(32)), history=5, slots=4)
    place = batch["image_item"].tolist().index(broken)
    assert (batch["images"][place] == 128).all()
    others = torch.arange(len(batch["images"])) != place
    assert torch.equal(batch["images"][others], whole["images"][others])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_batches_that_were_to_come(shards, workers):
    settings = Batch(rows=16, history=5, slots=4, workers=workers)
    arguments = (shards, "requests", settings, 32, 7)
    whole = take(loader(*arguments), 9)
    resumed = take(loader(*arguments, start=5), 4)
    assert all(same(first, second) for first, second in zip(whole[5:], resumed, strict=True))


def requests_seen(stream, count):
    """Requests of a stream's next batches."""
    stream.collate = lambda encoded: [request["request"] for request in encoded[1]]
    return [request for batch in take(stream, count) for request in batch]


def test_processes_share_an_epoch_without_overlap_and_lose_nothing(shards):
    groups = open_shards(shards).listed("train")
    settings = Batch(rows=2, workers=0)  # one row a process: an epoch ends with no rest
    loaders = [loader(shards, "requests", settings, 32, 7, process=process, processes=2) for process in range(2)]
    streams = [one.dataset for one in loaders]
    own = [sum(groups[group]["requests"] for group in stream._order(0, 0)) for stream in streams]
    shared = [requests_seen(stream, count) for stream, count in zip(streams, own, strict=True)]
    requests = sum(group["requests"] for group in groups)
    assert len(shared[0]) + len(shared[1]) == requests
    assert len(set(shared[0]) | set(shared[1])) == requests


def test_rests_of_shards_fill_batches_together(shards):
    index = open_shards(shards).listed("train")
    requests = sum(shard["requests"] for shard in index)
    rows = max(shard["requests"] for shard in index) - 1  # every shard leaves a rest, most fill no batch alone
    stream = loader(shards, "requests", Batch(rows=rows, workers=0), 32, 7).dataset
    seen = requests_seen(stream, requests // rows)
    assert len(seen) == len(set(seen)) == requests // rows * rows


def test_fewer_requests_than_a_batch_still_fill_one(tiny_world):
    batch = next(iter(loader(tiny_world / "shards", "requests", Batch(rows=1024, workers=0), 32, 7)))
    assert len(batch["page"]) == 1024


def categories_of(folder):
    """The category of the group that each training request is in."""
    opened = open_shards(folder)
    groups = enumerate(opened.listed("train"))
    return {record["request"]: one["category"] for group, one in groups for record in opened.records("train", group)}


def test_only_the_rests_of_shards_mix_categories(tiny_world, tmp_path):
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "pure"), smallest_shard=16))
    items = all_records(open_shards(tiny_world / "shards"), "items")
    category = {record["item"]: record["category"] for record in items}
    stream = loader(tmp_path / "pure", "requests", SETTINGS, 32, 7).dataset
    stream.collate = lambda encoded: {category[item] for request in encoded[1] for item in request["page"]}
    sizes = [group["requests"] for group in open_shards(tmp_path / "pure").listed("train")]
    found = take(stream, sum(sizes) // 16)
    assert sum(len(categories) == 1 for categories in found) >= sum(size // 16 for size in sizes)


def test_shards_smaller_than_a_batch_keep_categories_apart(tiny_world, tmp_path):
    small = {"requests_per_shard": 24, "smallest_shard": 8}
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "small"), **small))
    listed = open_shards(tmp_path / "small").listed("train")
    category = categories_of(tmp_path / "small")
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
    whole = np.asarray(smooth)
    for transform in (plain_transform(64), training_transform(Batch(crop_scale=0.6), 64)):
        picture = transform.decode(file.getvalue())
        assert picture.shape == (200, 150, 3)
    expected = plain_transform(64)([whole]).float()
    found = plain_transform(64)
    difference = (found([found.decode(file.getvalue())]).float() - expected).abs()
    assert difference.mean() < 1 and difference.max() < 8


def pictures_of(sides):
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(*some, 3), dtype=np.uint8) for some in sides]


@pytest.mark.parametrize("together", [1, 20_000, 10**9])
@pytest.mark.parametrize("cores", [1, 3])
def test_pictures_resized_together_have_torchvisions_bits(together, cores, monkeypatch):
    monkeypatch.setattr(transforms, "TOGETHER", together)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    pictures = pictures_of([*np.random.default_rng(1).integers(1, 90, (60, 2)).tolist(), (24, 24), (24, 50), (50, 24)])
    resize = v2.Resize((24, 24), antialias=True)
    expected = [resize(torch.from_numpy(picture).permute(2, 0, 1)) for picture in pictures]
    assert torch.equal(plain_transform(24)(iter(pictures)), torch.stack(expected))


@pytest.mark.parametrize("crop_scale", [0.3, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_views_are_crops_and_mirrored_half_of_the_time(crop_scale, flip, monkeypatch):
    crops = []
    original = transforms.RandomView.crop
    monkeypatch.setattr(
        transforms.RandomView, "crop", lambda *arguments: crops.append(original(*arguments)) or crops[-1]
    )
    pictures = pictures_of(np.random.default_rng(1).integers(5, 90, (400, 2)).tolist())
    torch.manual_seed(0)
    found = training_transform(Batch(crop_scale=crop_scale, flip=flip), 24)(pictures)
    mirrored = 0
    for view, picture, crop in zip(found, pictures, crops or [...] * 400, strict=True):
        cut = torch.from_numpy(picture[crop].copy()).permute(2, 0, 1)
        expected = v2.functional.resize(cut, [24, 24], antialias=True)
        mirrored += not torch.equal(view, expected)
        assert torch.equal(view, expected) or torch.equal(view, expected.flip(-1))
    assert 160 < mirrored < 240 if flip else not mirrored


@pytest.mark.parametrize("sides", [(72, 72), (90, 60), (10, 100)])
def test_crops_are_drawn_as_torchvision_draws_them(sides):
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(24, (0.6, 1), antialias=True)
    drawn = [theirs.make_params([torch.zeros(3, *sides)]) for _ in range(4000)]
    view = transforms.RandomView(24, 0.6, True)
    ours = [view.crop(*sides, numbers) for numbers in torch.rand(4000, 23, dtype=torch.float64).tolist()]
    found = {
        "top": [rows.start for rows, _ in ours],
        "left": [columns.start for _, columns in ours],
        "height": [rows.stop - rows.start for rows, _ in ours],
        "width": [columns.stop - columns.start for _, columns in ours],
    }
    for name, values in found.items():
        assert ks_2samp(values, [one[name] for one in drawn]).pvalue > 1e-3


def test_small_crops_keep_their_pixels():
    assert training_transform(Batch(crop_scale=0.08), 64).at_least >= 64 / (0.08 * 0.75) ** 0.5
    assert training_transform(Batch(crop_scale=1), 64).at_least == 128


@pytest.mark.parametrize("streams", [1, 3, 4])
def test_batches_do_not_depend_on_the_number_of_workers(shards, streams):
    found = []
    for workers in (0, 2, 3):
        settings = Batch(rows=16, history=5, slots=4, workers=workers, shard_streams=streams)
        found.append(take(loader(shards, "requests", settings, 32, 7, start=2), 5))
    for other in found[1:]:
        assert all(same(first, second) for first, second in zip(found[0], other, strict=True))


def test_a_batch_mixes_as_many_categories_as_configured(tiny_world, tmp_path):
    """Equal parts from each, every request once an epoch, and the same after a stop."""
    write_shards(Shards(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "pure"), smallest_shard=1))
    category = categories_of(tmp_path / "pure")
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


def test_two_views_of_the_same_catalogue_pictures(shards):
    batch = next(iter(loader(shards, "items", SETTINGS, 32, 7)))
    assert batch["images"].shape == (32, 3, 32, 32)
    assert torch.equal(batch["image_item"][:16], batch["image_item"][16:])
    assert not torch.equal(batch["images"][:16], batch["images"][16:])


def test_too_few_shards_say_what_to_do(tiny_world):
    with pytest.raises(UserError, match=r"Lower --batch.shard_streams"):
        loader(tiny_world / "shards", "requests", Batch(rows=64, shard_streams=32), 32, 7, processes=2)


def test_rows_must_divide_over_processes(tiny_world):
    with pytest.raises(UserError, match="spread evenly"):
        loader(tiny_world / "shards", "requests", Batch(rows=15), 32, 7, processes=2)


def test_a_short_shard_is_named(tmp_path):
    with wds.TarWriter(str(tmp_path / "items-00000.tar")) as tar:
        tar.write({"__key__": "1", "json": json.dumps({})})
    entry = {"file": "items-00000.tar", "bytes": 1, "items": 1}
    (tmp_path / "index.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "items": [entry], "requests": {}})
    )
    with pytest.raises(UserError, match=r"items-00000.tar has \d+ bytes, the index promises 1"):
        read_index(tmp_path)


def damaged(folder, copy, name, at, data=b"\0\1"):
    """A copy of a shard folder with a file overwritten at a place."""
    shutil.copytree(folder, copy)
    with open(copy / name, "r+b") as file:
        file.seek(at)
        file.write(data)
    return copy


def test_a_damaged_shard_is_named_where_digests_are_checked(streaming_shards, tmp_path):
    assert read_index(streaming_shards, digests=True) == read_index(streaming_shards)
    folder = damaged(streaming_shards, tmp_path / "shards", "requests-train-00001.tar", 700)
    read_index(folder)
    with pytest.raises(UserError, match=r"requests-train-00001.tar has digest \w+, the index promises \w+"):
        read_index(folder, digests=True)
    opened = open_shards(folder)
    opened.read("train", 0)
    with pytest.raises(UserError, match=r"requests-train-00001.tar has digest"):
        opened.read("train", 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named_as_it_is_read(tiny_world, tmp_path, workers):
    folder = damaged(tiny_world / "shards", tmp_path / "shards", "items-00000.tar", 700)
    settings = Batch(**{**vars(SETTINGS), "workers": workers})
    with pytest.raises(UserError, match=r"^/\S+items-00000.tar is damaged: the picture of item 0, \d+ bytes at 512"):
        take(loader(folder, "requests", settings, 32, 7), 30)


def test_a_damaged_table_is_named_as_it_is_read(tiny_world, tmp_path):
    folder = damaged(tiny_world / "shards", tmp_path / "shards", "requests-train-00000.parquet", 700)
    with pytest.raises(UserError, match=r"requests-train-00000.parquet has digest .*copy it again"):
        open_shards(folder).records("train", 0)


def test_a_table_with_fewer_rows_than_promised_is_named(tiny_world, tmp_path):
    shutil.copytree(tiny_world / "shards", tmp_path / "shards")
    index = read_json(tmp_path / "shards" / "index.json")
    index["requests"]["valid"][0]["groups"][0]["requests"] += 1
    (tmp_path / "shards" / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"requests-valid-00000.parquet has 64 rows .* the index promises 65"):
        open_shards(tmp_path / "shards").records("valid", 0)


def test_a_tar_whose_members_are_gone_is_named(streaming_shards, tmp_path):
    """A header that is no header ends a tar, for those who do not count."""
    folder = damaged(streaming_shards, tmp_path / "shards", "requests-train-00001.tar", 5120, bytes(20000))
    with pytest.raises(UserError, match=r"requests-train-00001.tar holds \d+ records, the index promises 64"):
        open_shards(folder).records("train", 1)


def test_shards_of_another_format_say_what_to_do(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"format_version": 1, "dataset": "my/dataset"}))
    with pytest.raises(UserError, match=r"shard format 1, 2 and 3 and 4 are read; .*: .*--dataset my/dataset --out"):
        read_index(tmp_path)


def test_a_folder_without_shards_says_how_to_write_them(tmp_path):
    with pytest.raises(UserError, match=r"python -m data_tools.shards"):
        read_index(tmp_path)


def test_shards_of_the_format_before_are_read(streaming_shards, tmp_path):
    shutil.copytree(streaming_shards, tmp_path / "old")
    index = read_json(tmp_path / "old" / "index.json")
    for name in ("layout", "settings", "fingerprint"):
        del index[name]
    (tmp_path / "old" / "index.json").write_text(json.dumps({**index, "format_version": 2}))
    new, old = (take(loader(folder, "requests", SETTINGS, 32, 7), 3) for folder in (streaming_shards, tmp_path / "old"))
    assert all(same(first, second) for first, second in zip(new, old, strict=True))


def test_index_agrees_with_the_tars(streaming_shards):
    index = read_json(streaming_shards / "index.json")
    for shard in index["requests"]["train"]:
        images, requests = read_shard(streaming_shards / shard["file"])
        assert (len(images), len(requests)) == (shard["images"], shard["requests"])
