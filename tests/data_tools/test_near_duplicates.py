"""Near-duplicates: found as brute force finds them, written by prepare, and taken for copies from then on."""

import io
import shutil
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data_tools.common.cli import UserError
from data_tools.dataset.near_duplicates import like_any
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.inspect import inspect
from data_tools.inspection.advice import NOTE, findings
from data_tools.reading import near_duplicates as searching
from data_tools.reading.near_duplicates import Looks, alike, first_alike, near_pairs, perceptual_hash
from data_tools.sharding.files import read_index
from data_tools.sharding.read import all_records, near_duplicates, open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from downstream.data.ctr_data import load_ctr_data
from downstream.report.method import cold_near_duplicates
from downstream.settings import DataSettings
from pretrain.data.records import log_shares
from pretrain.data.stream import loader
from pretrain.objectives.base import Context
from pretrain.objectives.clip import Clip
from pretrain.objectives.courier import Courier
from pretrain.objectives.simclr import SimClr
from pretrain.settings import Batch


def bits_of(hashes):
    return np.unpackbits(hashes, axis=1)


@pytest.mark.parametrize("distance", [0, 2, 6, 9])
def test_near_pairs_are_all_pairs(distance):
    rng = np.random.default_rng(0)
    looks = Looks.empty(400)
    looks.hash[:] = rng.integers(0, 256, (400, 8))
    looks.small[:] = rng.integers(20, 220, (400, 8, 8, 3))
    bits = bits_of(looks.hash)
    for row in range(150, 400):  # copies with 0 to 9 bits turned, more or less noise, and another contrast
        bits[row] = bits[row - 150]
        bits[row, rng.choice(64, row % 10, replace=False)] ^= 1
        noise = rng.normal(0, 1 + row % 4, (8, 8, 3))
        looks.small[row] = looks.small[row - 150] * (1 - 0.03 * (row % 3)) + noise
    looks.hash[:] = np.packbits(bits, axis=1)
    expected = {(a, b) for a, b in combinations(range(400), 2) if near(looks, a, b, distance)}
    first, second = near_pairs(looks, distance)
    assert {(int(a), int(b)) for a, b in zip(first, second, strict=True)} == expected
    assert len(expected) >= 10


def test_candidates_of_which_none_is_near_are_no_pairs(monkeypatch):
    """More candidates than are compared at a time, in parts of which some hold no pair."""
    monkeypatch.setattr(searching, "AT_ONCE", 4)
    looks = Looks.empty(12)
    looks.small[:] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    looks.hash[:] = np.arange(12)[:, None] * 17
    looks.hash[11] = looks.hash[10]
    assert [one.tolist() for one in near_pairs(looks, 2)] == [[10], [11]]
    assert alike(looks.small[:0], looks.small[:0]).shape == (0,)


def test_no_pictures_have_no_pairs():
    assert [len(one) for one in near_pairs(Looks.empty(0))] == [0, 0]


@pytest.fixture(scope="module")
def pictures(tiny_world):
    return [Image.open(path).convert("RGB") for path in sorted((tiny_world / "dataset/images").glob("*.jpg"))[:40]]


def test_hash_survives_brightness_and_size_but_not_another_picture(pictures):
    pictures = pictures[:20]
    hashes = np.stack([perceptual_hash(picture) for picture in pictures])
    brighter = np.stack([perceptual_hash(picture.point(lambda level: 0.8 * level + 20)) for picture in pictures])
    enlarged = np.stack([perceptual_hash(picture.resize((64, 64), Image.Resampling.BICUBIC)) for picture in pictures])
    distance = (bits_of(hashes)[:, None] != bits_of(hashes)[None]).sum(axis=2)
    for same in (brighter, enlarged):
        assert np.median((bits_of(hashes) != bits_of(same)).sum(axis=1)) <= 7
    assert np.median(distance[np.triu_indices(20, 1)]) > 12


def looks_of(pictures):
    looks = Looks.empty(len(pictures))
    for row, picture in enumerate(pictures):
        file = io.BytesIO()
        picture.save(file, "PNG")
        looks.set(row, file.getvalue(), picture)
    return looks


def near(looks, a, b, distance):
    """Whether two pictures are near-duplicates, from the definitions."""
    if np.unpackbits(looks.hash[a] ^ looks.hash[b]).sum() > distance:
        return False
    x, y = looks.small[a].astype(float).ravel(), looks.small[b].astype(float).ravel()
    return np.corrcoef(x, y)[0, 1] > 0.999 and np.exp(-0.12) < x.std() / max(y.std(), 1e-6) < np.exp(0.12)


def by_brute_force(looks, distance):
    """The first of each connected group, from all pairs, one after the other."""
    count, first = len(looks.hash), list(range(len(looks.hash)))
    for a, b in combinations(range(count), 2):
        close = not looks.blank[[a, b]].any() and near(looks, a, b, distance)
        if close or (looks.digest[a] == looks.digest[b]).all():
            low, high = sorted((first[a], first[b]))
            first = [low if one == high else one for one in first]
    return first


def test_groups_are_those_of_brute_force(pictures):
    changed = [picture.point(lambda level: round(level * 0.95)) for picture in pictures[:10]]
    several = [*pictures, *changed, *pictures[10:14], *[Image.new("RGB", (32, 32), "grey")] * 2]
    several += [Image.new("RGB", (32, 32), "white"), Image.new("RGB", (32, 32), "white").resize((16, 16))]
    looks = looks_of(several)
    for distance in (0, 6):
        found = first_alike(looks, distance)
        assert found.tolist() == by_brute_force(looks, distance)
        assert found[50:54].tolist() == [10, 11, 12, 13]  # the same bytes, whatever the distance
        assert found[54:].tolist() == [54, 54, 56, 57]  # blank ones only by their bytes
    assert (found[40:50] == np.arange(10)).mean() >= 0.8


def shirt(colour):
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste(colour, (14, 8, 50, 58))
    picture.paste(tuple(min(255, level + 12) for level in colour), (28, 8, 36, 58))
    return picture


@pytest.mark.parametrize(
    ("first", "second"),
    [((200, 30, 30), (30, 30, 200)), ((20, 20, 20), (90, 90, 90)), ((60, 130, 60), (130, 60, 60))],
)
def test_colours_of_one_product_are_not_the_same(first, second):
    looks = looks_of([shirt(first), shirt(second)])
    assert (bits_of(looks.hash)[0] != bits_of(looks.hash)[1]).sum() <= 6  # a grey hash cannot tell
    assert not alike(looks.small[:1], looks.small[1:])[0]
    assert first_alike(looks).tolist() == [0, 1]


PLANTED = {5: 2, 9: 2, 20: 11}


@pytest.fixture(scope="module")
def shop(tiny_world, tmp_path_factory):
    """The tiny world, some of whose items have another's picture, a little darker, found with 6 bits."""
    folder = tmp_path_factory.mktemp("near")
    images = shutil.copytree(tiny_world / "dataset" / "images", folder / "images")
    source = open_dataset(tiny_world / "dataset")
    names = source.items["image"].to_list()
    for copy, of in PLANTED.items():
        picture = Image.open(tiny_world / "dataset" / names[of]).convert("RGB").point(lambda level: round(level * 0.96))
        picture.save(folder / names[copy], "PNG")
    items = source.items.select("item_id", "image", "title", "category")
    log = source.impressions.select("user_id", "item_id", "timestamp", "click", request_id="request")
    log.write_parquet(folder / "log.parquet")
    rules = Rules(valid_from=0.75, test_from=0.85, near_duplicates=6)
    write_dataset(folder / "dataset", folder / "log.parquet", items, images.parent, rules=rules)
    return folder


def shards_of(shop, layout, out):
    settings = {"dataset": str(shop / "dataset"), "layout": layout, "requests_per_shard": 64}
    write_shards(Shards(**settings, out=str(out)))
    return out


def test_prepare_writes_and_counts_them(shop):
    dataset = open_dataset(shop / "dataset")
    found = {item: int(first) for item, first in enumerate(dataset.first_alike) if first != item}
    assert found == PLANTED
    table = pl.read_parquet(shop / "dataset" / "near_duplicates.parquet")
    assert dict(table.iter_rows()) == {2: 2, 5: 2, 9: 2, 11: 11, 20: 11}
    rows = dataset.impressions
    trained = set(rows.filter(split="train")["item"])
    cold = set(rows["item"]) - trained
    groups = [{2, 5, 9}, {11, 20}]
    counts = dataset.info["counts"]
    assert counts["items_with_near_duplicates"] == 5 and counts["pictures_with_near_duplicates"] == 2
    assert counts["cold_items_like_trained_ones"] == sum(len(g & cold) for g in groups if g & trained)


def test_the_page_about_a_dataset_knows_that_they_are_known(shop):
    (one,) = [one for one in findings(inspect(open_dataset(shop / "dataset"))) if "share a picture" in one.what]
    assert one.what.startswith("5 items") and one.do == "Nothing." and one.level == NOTE


def test_a_report_counts_the_cold_items_that_look_like_trained_ones(shop):
    data = load_ctr_data(shop / "dataset", DataSettings(history=5))
    rows = data.dataset.impressions
    trained = set(rows.filter(split="train")["item"])
    cold = set(rows.filter(split="test")["item"]) - trained
    expected = sum(len(group & cold) for group in ({2, 5, 9}, {11, 20}) if group & trained)
    assert cold_near_duplicates(data).startswith(f" {expected} of them have nearly the same picture")


def test_without_the_setting_there_are_none(tiny_world):
    assert cold_near_duplicates(load_ctr_data(tiny_world / "dataset", DataSettings())) == ""
    dataset = open_dataset(tiny_world / "dataset")
    assert dataset.first_alike is None and dataset.info["near_duplicates"] is None
    assert near_duplicates(open_shards(tiny_world / "shards")) == {}
    batch = next(iter(loader(tiny_world / "shards", "requests", BATCH, 32, 0)))
    assert "image_copy_of" not in batch


def test_too_many_bits_are_refused():
    with pytest.raises(UserError, match="near_duplicates is 65"):
        Rules(near_duplicates=65)


def test_like_any_is_a_loop():
    first = np.array([0, 1, 0, 3, 1, 5])
    seen = np.array([False, False, True, False, False, True])
    assert like_any(first, seen).tolist() == [True, False, True, False, False, True]
    assert like_any(first, np.array([4])).tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_shards_hold_them_and_their_copies_are_seen(shop, layout, tmp_path):
    shards = open_shards(shards_of(shop, layout, tmp_path / "shards"))
    assert near_duplicates(shards) == {2: 2, 5: 2, 9: 2, 11: 11, 20: 11}
    records = [record for split in ("train", "valid", "test") for record in all_records(shards, split)]
    trained = {item for r in records if r["split"] == "train" for item in r["history"] + r["page"]}
    groups = [{2, 5, 9}, {11, 20}]
    by_copy = {item for group in groups if group & trained for item in group} - trained
    shown = set()
    for record in records:
        shown |= {*record["page"], *record["history"]}
        for item, seen in zip(record["page"], record["seen"], strict=True):
            assert seen == (item in trained or item in by_copy)
    described = read_index(tmp_path / "shards", digests=True)["near_duplicates"]
    assert (described["items"], described["pictures"]) == (5, 2)
    assert described["seen_by_near_duplicate"] == len(by_copy & shown)


BATCH = Batch(rows=64, history=5, slots=4, workers=0)


def test_batches_name_the_first_of_them(shop, tmp_path):
    shards = shards_of(shop, "catalogue", tmp_path / "shards")
    for kind in ("requests", "items"):
        batch = next(iter(loader(shards, kind, BATCH, 32, 0)))
        expected = [PLANTED.get(item, item) for item in batch["image_item"].tolist()]
        assert batch["image_copy_of"].tolist() == expected
    page, _ = log_shares(shards, 5, 4)
    counts = np.zeros(200)
    for record in all_records(open_shards(shards), "train"):
        for item in record["page"][:4]:
            counts[PLANTED.get(item, item)] += 1
    some = np.flatnonzero(counts)
    assert torch.allclose(page[some].double(), torch.tensor(np.log(counts[some] / counts.sum())), atol=0.01)


class Encoder(torch.nn.Module):
    dimensions = 8


def test_courier_takes_them_for_one_item():
    """The loss with near-duplicates is that of the same batch in which both have one number, and not without them."""
    torch.manual_seed(0)
    embeddings = torch.randn(6, 8)
    batch = {
        "history": torch.tensor([[4], [5]]),
        "fresh": torch.tensor([1, 1]),
        "page": torch.tensor([[0, 1], [2, 3]]),
        "click": torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        "image_item": torch.arange(6),
    }
    objective = Courier(Courier.Settings(ucs_weight=0.0, page_weight=1.0), Context(Encoder(), slots=2))
    found = objective(embeddings, batch | {"image_copy_of": torch.tensor([0, 0, 2, 0, 4, 5])})
    unit = F.normalize(embeddings, dim=-1)
    # Slots 0, 1 and 3 are copies: the first query has 2 as its only negative, the second has all others.
    logits = [unit[4] @ unit[:4].T / objective.temperature, unit[5] @ unit[:4].T / objective.temperature]
    first = F.cross_entropy(logits[0][[0, 2]][None], torch.tensor([0]))
    second = F.cross_entropy(logits[1][None], torch.tensor([2]))
    torch.testing.assert_close(found["pv_loss"].loss, (first + second) / 2)
    # In the first page view, slot 1 is a copy of the clicked one: only the second page view has a rival.
    torch.testing.assert_close(found["page_loss"].loss, F.softplus(logits[1][3] - logits[1][2]))
    assert not torch.allclose(objective(embeddings, batch)["pv_loss"].loss, found["pv_loss"].loss)


def test_simclr_and_clip_take_them_for_one_item():
    torch.manual_seed(0)
    embeddings, item = torch.randn(6, 8), torch.arange(3).repeat(2)
    copy = torch.tensor([0, 0, 2]).repeat(2)
    objective = SimClr(SimClr.Settings(), Context(Encoder()))
    found = objective(embeddings, {"image_item": item, "image_copy_of": copy})["simclr_loss"].loss
    unit = F.normalize(embeddings, dim=-1)
    logits = unit @ unit.T / objective.temperature
    own = torch.arange(6).roll(3)
    kept = (copy[:, None] != copy[None]) | (torch.arange(6)[None] == own[:, None])
    torch.testing.assert_close(found, F.cross_entropy(logits.masked_fill(~kept, -torch.inf), own))

    objective = Clip(Clip.Settings(width=8, heads=1, layers=1, context=4), Context(Encoder()))
    text = torch.tensor([[1, 2, 0, 0], [3, 4, 0, 0], [5, 6, 0, 0]])
    batch = {"image_item": torch.arange(3), "text": text, "has_text": torch.ones(3, dtype=torch.bool)}
    found = objective(embeddings[:3], batch | {"image_copy_of": copy[:3]})["clip_loss"].loss
    words = F.normalize(objective.text(text), dim=-1)
    kept = (copy[:3, None] != copy[None, :3]) | torch.eye(3, dtype=torch.bool)
    logits = (unit[:3] @ words.T / objective.temperature).masked_fill(~kept, -torch.inf)
    expected = (F.cross_entropy(logits, torch.arange(3)) + F.cross_entropy(logits.T, torch.arange(3))) / 2
    torch.testing.assert_close(found, expected)


def test_appended_shards_name_them_by_their_own_numbers(shop, tmp_path):
    """Items of an earlier, reversed catalogue keep their numbers; near-duplicates are found among old and new ones."""
    source = open_dataset(shop / "dataset")
    items = source.items.select("item_id", "image", "title", "category")
    log = source.impressions.select("user_id", "item_id", "timestamp", "click", request_id="request")
    rules = Rules(valid_from=0.75, test_from=0.85, near_duplicates=6)
    early = log.filter(pl.col("timestamp") < log["timestamp"].quantile(0.7))
    shown = items.filter(pl.col("item_id").is_in(early["item_id"].implode()))
    for name, rows, listed in (("early", early, shown[::-1]), ("late", log, items)):
        rows.write_parquet(tmp_path / f"{name}.parquet")
        write_dataset(tmp_path / name, tmp_path / f"{name}.parquet", listed, shop / "dataset", rules=rules)
    out = tmp_path / "shards"
    write_shards(Shards(dataset=str(tmp_path / "early"), out=str(out), requests_per_shard=64))
    before = near_duplicates(open_shards(out))
    write_shards(Shards(dataset=str(tmp_path / "late"), out=str(out), requests_per_shard=64, append=True))
    shards = open_shards(out, digests=True)
    name = {record["item"]: record["item_id"] for record in all_records(shards, "items")}
    groups = {}
    for item, first in near_duplicates(shards).items():
        groups.setdefault(first, set()).add(name[item])
    ids = source.items["item_id"]
    assert before and max(before) > 100  # the earlier catalogue is reversed
    assert sorted(map(sorted, groups.values())) == sorted([sorted(ids[[2, 5, 9]]), sorted(ids[[11, 20]])])
