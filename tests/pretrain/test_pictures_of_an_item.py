"""Items with several pictures: pre-training draws one a step, the export averages them or keeps each."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data_tools.common.errors import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.tables.table import read_table
from pretrain.data.stream import loader
from pretrain.data.transforms import plain_transform
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export import Settings, export
from pretrain.settings import Batch, Encoder

ENCODER = Encoder(name="test_byobnet", dimensions=8, image_size=32)
SETTINGS = Batch(rows=8, history=5, slots=4, workers=0, crop_scale=1.0, flip=False)
ITEMS, SEVERAL = 12, 3  # the first five items have three pictures each


def grey(item: int, place: int) -> int:
    """Of a picture, one number for all its pixels."""
    return 20 * item + 6 * place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    (folder / "in").mkdir()
    names = [[f"{item}-{place}.png" for place in range(SEVERAL if item < 5 else 1)] for item in range(ITEMS)]
    for item, own in enumerate(names):
        for place, name in enumerate(own):
            Image.new("L", (32, 32), grey(item, place)).save(folder / "in" / name)
    rng = np.random.default_rng(0)
    log = {"user_id": rng.integers(20, size=2000), "item_id": rng.integers(ITEMS, size=2000)}
    log |= {"timestamp": 1_600_000_000 + 60 * np.arange(2000), "click": rng.integers(2, size=2000)}
    pl.DataFrame(log).write_parquet(folder / "log.parquet")
    items = pl.DataFrame({"item_id": range(ITEMS), "image": names})
    write_dataset(folder / "dataset", folder / "log.parquet", items, folder / "in")
    # Few items a tar: an item's pictures may lie in two of them.
    write_shards(Shards(dataset=str(folder / "dataset"), out=str(folder / "shards"), items_per_shard=4))
    return folder


def drawn(folder, kind, count, **options):
    """(item, grey of its picture) of the pictures of some batches."""
    stream = loader(folder / "shards", kind, SETTINGS, 32, options.pop("seed", 7), **options)
    for batch, _ in zip(stream, range(count), strict=False):
        yield list(zip(batch["image_item"].tolist(), batch["images"][:, 0, 0, 0].tolist(), strict=True))


@pytest.mark.parametrize("kind", ["requests", "items"])
def test_each_step_draws_one_of_an_items_pictures(folder, kind):
    seen: dict[int, Counter] = {}
    for batch in drawn(folder, kind, 60):
        if kind == "items":  # two views of one picture
            assert batch[: len(batch) // 2] == batch[len(batch) // 2 :]
        else:
            assert len(dict(batch)) == len(batch)
        for item, value in set(batch):
            seen.setdefault(item, Counter())[value] += 1
    for item in range(ITEMS):
        wanted = {grey(item, place) for place in range(SEVERAL if item < 5 else 1)}
        assert set(seen[item]) == wanted
        assert min(seen[item].values()) > 0.15 * seen[item].total()  # a third each


@pytest.mark.parametrize("kind", ["requests", "items"])
def test_draws_are_those_of_the_seed_and_the_step(folder, kind):
    whole = list(drawn(folder, kind, 9))
    assert list(drawn(folder, kind, 4, start=5)) == whole[5:]
    assert list(drawn(folder, kind, 9)) == whole
    assert list(drawn(folder, kind, 9, seed=8)) != whole


def vectors_of(folder, item):
    """An encoder's vectors of an item's pictures, each of length 1."""
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER).eval()
    dataset = open_dataset(folder / "dataset")
    paths = dataset.items["images"][item]
    pictures = [plain_transform(32).decode((dataset.folder / path).read_bytes()) for path in paths]
    with torch.no_grad():
        return F.normalize(encoder.features(plain_transform(32)(pictures)), dim=-1)


def exported(folder, tmp_path, **options):
    torch.manual_seed(0)
    settings = Settings(
        data=str(folder / "shards"), out=str(tmp_path / "table"), encoder=ENCODER, **{"batch": 5, **options}
    )
    return export(settings), read_table(tmp_path / "table")


@pytest.mark.parametrize("normalise", [True, False])
def test_the_export_averages_an_items_pictures(folder, tmp_path, normalise):
    info, table = exported(folder, tmp_path, normalise=normalise)
    assert sorted(table.ids) == list(range(ITEMS)) and info["count"] == ITEMS and info["pictures"] == "mean"
    for item in (0, 3, 4, 9):
        found = table.lookup([item])[0][0]
        if normalise:
            wanted = F.normalize(vectors_of(folder, item).mean(dim=0), dim=0).numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        elif item == 9:
            np.testing.assert_allclose(found / np.linalg.norm(found), vectors_of(folder, item)[0], atol=1e-5)


def test_the_export_can_take_the_first_or_keep_each(folder, tmp_path):
    _, first = exported(folder, tmp_path / "first", pictures="first")
    _, each = exported(folder, tmp_path / "each", pictures="each")
    assert len(first.ids) == ITEMS and len(each.ids) == ITEMS + 5 * (SEVERAL - 1)
    for item in (0, 4, 9):
        wanted = vectors_of(folder, item).numpy()
        names = [item, *(f"{item}/{place}" for place in range(1, len(wanted)))]
        np.testing.assert_allclose(each.lookup(names)[0], wanted, atol=1e-5)
        np.testing.assert_allclose(first.lookup([item])[0][0], wanted[0], atol=1e-5)


def test_an_unknown_way_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="pictures"):
        exported(folder, tmp_path, pictures="all")
