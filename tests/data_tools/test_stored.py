"""Pictures stored at the size that is trained."""

import io

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.sharding.read import open_shards
from data_tools.sharding.stored import Stored
from data_tools.sharding.write import Settings, write_shards
from pretrain.data.stream import loader
from pretrain.settings import Batch


def jpeg(width, height):
    smooth = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_larger_pictures_are_resized_and_smaller_ones_stay_as_they_are():
    large, small = jpeg(1200, 900), jpeg(256, 300)
    stored = Stored(side=256, quality=90)
    data, extension = stored.picture(large, "a.png")
    image = Image.open(io.BytesIO(data))
    assert (image.size, image.format, extension) == ((341, 256), "JPEG", "jpg")
    assert len(data) < len(large) / 4
    whole = Image.open(io.BytesIO(large)).resize((341, 256), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(image, float) - np.asarray(whole, float)).mean() < 2
    assert stored.picture(small, "a.jpg") == (small, "jpg")
    assert Stored().picture(large, "a.jpg") == (large, "jpg")


def test_decoded_pictures_are_arrays():
    data, extension = Stored(side=72, decoded=True).picture(jpeg(100, 144), "a.jpg")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    assert (array.shape, array.dtype, extension) == ((104, 72, 3), np.uint8, "npy")
    small = np.load(io.BytesIO(Stored(side=72, decoded=True).picture(jpeg(40, 50), "a.jpg")[0]), allow_pickle=False)
    assert small.shape == (50, 40, 3)


def test_a_broken_picture_is_named():
    with pytest.raises(UserError, match=r"images/3.jpg: unreadable.*prepare the dataset again"):
        Stored(side=72).picture(b"no picture", "images/3.jpg")


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_batches_of_decoded_pictures_are_those_of_their_files(tiny_world, tmp_path, layout):
    """The world's pictures have the side they are stored at, so that decoding is all that is done before."""
    out = tmp_path / "s"
    given = {"requests_per_shard": 64, "pictures": "decoded", "side": 32, "layout": layout}
    write_shards(Settings(dataset=str(tiny_world / "dataset"), out=str(out), **given))
    arguments = ("requests", Batch(rows=16, workers=0), 32, 7)
    decoded, encoded = (iter(loader(folder, *arguments)) for folder in (out, tiny_world / "shards"))
    for _ in range(4):
        first, second = next(decoded), next(encoded)
        assert all((first[name] == second[name]).all() for name in second)


def test_webdataset_decodes_stored_arrays(tiny_world, tmp_path):
    out = tmp_path / "s"
    write_shards(Settings(dataset=str(tiny_world / "dataset"), out=str(out), pictures="decoded", side=16))
    urls = [str(file) for file in out.glob("items-*.tar")]
    sample = next(iter(wds.WebDataset(urls, shardshuffle=False).decode()))
    expected = np.load(io.BytesIO(open_shards(out).pictures("items")[int(sample["__key__"])]))
    assert np.array_equal(sample["npy"], expected) and expected.shape == (16, 16, 3)


def test_decoded_pictures_need_a_side(tmp_path):
    with pytest.raises(UserError, match="--pictures decoded needs --side"):
        Settings(dataset="d", out=str(tmp_path / "s"), pictures="decoded")
