"""Pictures decoded ahead in loader processes: in order, each once, with what is broken named."""

import io
import time

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.sharding.read import open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from pretrain.data import pictures as module
from pretrain.data.pictures import PictureSet, decoded, encoded_in_threads
from pretrain.data.transforms import plain_transform
from pretrain.evaluation.page_auc import embed, encoder_page_auc, load_requests
from pretrain.runtime.memory import encoded_by_a_thread, pieces


@pytest.fixture
def items():
    return np.random.default_rng(0).permutation(160).tolist()


@pytest.fixture
def expected(tiny_world, items):
    dataset, transform = open_dataset(tiny_world / "dataset"), plain_transform(24)
    paths = [dataset.folder / dataset.items["image"][item] for item in items]
    return torch.cat([transform([transform.decode(path.read_bytes())]) for path in paths])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [0, 1e9])
def test_pictures_come_in_order_however_they_are_decoded(shards, items, expected, workers, kept, monkeypatch):
    monkeypatch.setattr(module, "loader_processes", lambda wanted, most: workers)
    monkeypatch.setattr(module, "KEPT", kept)
    found = PictureSet(open_shards(shards).pictures("items"), items, 24)
    for _ in range(2):
        parts = list(found.split(50))
        assert [len(part) for part in parts] == [50, 50, 50, 10]
        assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(found[7], expected[7])
    assert torch.equal(torch.cat(list(found[20:90].split(256))), expected[20:90])


def test_a_small_set_is_decoded_once(tiny_world, items, monkeypatch):
    calls = []
    original = module.decoded
    monkeypatch.setattr(module, "decoded", lambda *arguments: calls.append(arguments) or original(*arguments))
    found = PictureSet(open_shards(tiny_world / "shards").pictures("items"), items, 24)
    for _ in range(3):
        list(found.split(50))
    assert len(calls) == 1


def test_no_more_than_a_few_chunks_are_made_ahead(tiny_world, items, monkeypatch):
    monkeypatch.setattr(module, "loader_processes", lambda wanted, most: 2)
    pictures, asked = open_shards(tiny_world / "shards").pictures("items"), []

    def chunks():
        for item in items:
            asked.append(item)
            yield [pictures.place(item)]

    for done, _ in enumerate(decoded(chunks(), 24), 1):
        assert len(asked) <= done + module.prefetched(2) * 2


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_encode_in_order_and_on_one_core_each(tiny_world, items, expected, threads):
    pictures, before, used = open_shards(tiny_world / "shards").pictures("items"), torch.get_num_threads(), set()

    def encode(images):
        used.add(torch.get_num_threads())
        time.sleep(0.01 * (len(images) % 3))  # so that later chunks end before earlier ones
        return images.flatten(1)

    firsts = range(0, len(items), 17)
    chunks = ([pictures.place(item) for item in items[first : first + 17]] for first in firsts)
    vectors, readable = zip(*encoded_in_threads(chunks, 24, encode, threads), strict=True)
    assert torch.equal(torch.cat(vectors), expected.flatten(1)) and torch.cat(readable).all()
    assert used == {1} and torch.get_num_threads() == before


def test_what_a_thread_finds_wrong_ends_all(tiny_world):
    pictures = open_shards(tiny_world / "shards").pictures("items")
    chunks = [[pictures.place(0)], [pictures.place(1)._replace(crc32=0)], *([pictures.place(2)] for _ in range(50))]
    with pytest.raises(UserError, match=r"the picture of item 1, .* is not the one that was written"):
        list(encoded_in_threads(chunks, 24, torch.clone, 2))


def test_a_broken_picture_counts_neither_for_nor_against(tiny_world, tmp_path):
    """Validation without the slots of a picture that cannot be decoded."""
    source = open_dataset(tiny_world / "dataset")
    (tmp_path / "dataset").mkdir()
    for file in source.folder.iterdir():
        (tmp_path / "dataset" / file.name).symlink_to(file)
    (tmp_path / "dataset" / "images").unlink()
    (tmp_path / "dataset" / "images").mkdir()
    lost = source.impressions.filter(split="test")["item"].mode()[0]
    for row in source.items.iter_rows(named=True):
        data = (source.folder / row["image"]).read_bytes()
        (tmp_path / "dataset" / row["image"]).write_bytes(data[:300] if row["item"] == lost else data)
    write_shards(Shards(dataset=str(tmp_path / "dataset"), out=str(tmp_path / "shards"), requests_per_shard=64))
    encoder = torch.nn.Sequential(torch.nn.Flatten(), Scaled(), torch.nn.Linear(3 * 24 * 24, 4))
    requests = load_requests(tmp_path / "shards", "test", image_size=24, history=30, limit=1000, seed=0)
    found = encoder_page_auc(encoder, requests)
    whole = load_requests(tiny_world / "shards", "test", image_size=24, history=30, limit=1000, seed=0)
    row = whole.images.items.index(lost)
    assert requests.images.broken == {row}

    unit = embed(encoder, whole.images)
    expected = {"warm": [], "cold": []}
    for history, page, click, seen in zip(whole.history, whole.page, whole.click, whole.warm, strict=True):
        taste = unit[[k for k in history.tolist() if k not in (-1, row)]].sum(0)
        for name, wanted in (("warm", True), ("cold", False)):
            slots = [
                (float(unit[k] @ taste), bool(c))
                for k, c, s in zip(page.tolist(), click, seen, strict=True)
                if k not in (-1, row) and bool(s) == wanted
            ]
            wins = [(a > b) + 0.5 * (a == b) for a, one in slots for b, other in slots if one and not other]
            expected[name] += [sum(wins) / len(wins)] if wins else []
    for name, values in expected.items():
        assert found[name]["pages"] == len(values) > 5
        assert found[name]["auc"] == pytest.approx(np.mean(values), abs=2e-3)


class Scaled(torch.nn.Module):
    def forward(self, images):
        return images.float() / 255 - 0.5


@pytest.mark.parametrize("size", [16, 96, 224, 2000])
def test_a_cpu_encodes_a_bounded_number_of_pixels_at_once(size):
    images = torch.zeros(300, 3, 1, 1, dtype=torch.uint8).expand(300, 3, size, size)
    parts = pieces(images, torch.device("cpu"))
    assert sum(map(len, parts)) == 300
    assert all(len(part) == 1 or len(part) * size**2 <= 256 * 96**2 for part in parts)
    assert len(pieces(images, torch.device("meta"))) == 1
    assert len(pieces(torch.arange(300), torch.device("cpu"))) == 1


@pytest.mark.parametrize(("size", "most", "expected"), [(64, 256, 128), (64, 100, 64), (224, 256, 16), (2000, 256, 1)])
def test_a_thread_encodes_a_power_of_two(size, most, expected):
    assert encoded_by_a_thread(size, most) == expected


def test_pictures_that_are_stored_decoded_are_read_and_broken_ones_are_black():
    rng, stored, arrays = np.random.default_rng(0), [], []
    for side in (72, 72, 40):
        arrays.append(rng.integers(256, size=(side, side, 3), dtype=np.uint8))
        np.save(file := io.BytesIO(), arrays[-1])
        stored.append(file.getvalue())
    chunks = module._Chunks(64)
    chunks.read = lambda data: data
    images, readable = chunks[[*stored, b"no picture"]]
    assert torch.equal(images[:-1], plain_transform(64)(arrays))
    assert readable.tolist() == [True] * 3 + [False] and not images[-1].any()
