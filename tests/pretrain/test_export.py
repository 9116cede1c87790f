import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import write_tensors
from data_tools.dataset.schema import open_dataset
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.tables.table import read_table
from pretrain import export as exporting
from pretrain.data.transforms import plain_transform
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export import Settings, export
from pretrain.settings import Encoder

ENCODER = Encoder(name="test_byobnet", dimensions=8, image_size=32)


@pytest.fixture(scope="module", params=["catalogue", "streaming"])
def table(request, tiny_world, streaming_shards, tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("tables") / "generic"
    data = tiny_world / "shards" if request.param == "catalogue" else streaming_shards
    export(Settings(data=str(data), out=str(out), encoder=ENCODER, batch=64))
    return out


def test_every_item_has_its_own_pictures_vector(table, tiny_world):
    dataset = open_dataset(tiny_world / "dataset")
    found = read_table(table)
    assert sorted(found.ids) == sorted(dataset.items["item_id"].to_list())
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER).eval()
    for row in (0, 57, 159):
        picture = plain_transform(32).decode((dataset.folder / dataset.items["image"][row]).read_bytes())
        with torch.no_grad():
            expected = F.normalize(encoder.features(plain_transform(32)([picture])), dim=-1)[0]
        vector = found.lookup([dataset.items["item_id"][row]])[0][0]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_table_says_where_it_came_from(table, tiny_world):
    info = read_json(table / "table.json")
    assert info["layer"] == "features"
    assert info["normalised"] is True
    assert info["encoder"]["name"] == "test_byobnet"
    assert info["dataset_fingerprint"] == open_dataset(tiny_world / "dataset").info["fingerprint"]


def test_stages_are_the_statistics_of_each_stages_maps(tiny_world, tmp_path):
    torch.manual_seed(0)
    data = str(tiny_world / "shards")
    export(Settings(data=data, out=str(tmp_path / "stages"), encoder=ENCODER, layer="stages", normalise=False))
    found, dataset = read_table(tmp_path / "stages"), open_dataset(tiny_world / "dataset")
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER).eval()
    maps = []
    for stage in (encoder.tower.stem, *encoder.tower.stages):
        stage.register_forward_hook(lambda module, given, made: maps.append(made))
    picture = plain_transform(32).decode((dataset.folder / dataset.items["image"][57]).read_bytes())
    pixels = (plain_transform(32)([picture]) / 255 - encoder.mean) / encoder.std
    with torch.no_grad():
        features = encoder.tower(pixels)
    expected = [n for m in maps for n in (m.mean((2, 3)), m.std((2, 3), correction=0))]
    vector = found.lookup([dataset.items["item_id"][57]])[0][0]
    np.testing.assert_allclose(vector, torch.cat([*expected, features], dim=1)[0].numpy(), atol=1e-4)
    with pytest.raises(UserError, match="a model of timm that shows its stages"):
        encoder.family.stages(torch.nn.Identity(), pixels)


def test_each_picture_is_encoded_once(tiny_world, tmp_path, monkeypatch):
    encoded = []
    original = exporting.encode
    monkeypatch.setattr(exporting, "encode", lambda e, images, s: encoded.append(len(images)) or original(e, images, s))
    export(Settings(data=str(tiny_world / "shards"), out=str(tmp_path / "t"), encoder=ENCODER))
    assert sum(encoded) == 160


@pytest.fixture(scope="module")
def broken(tiny_world, tmp_path_factory):
    """Dataset and shards of the tiny world, where the picture of item 57 has been cut short; nine tars of items."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(tiny_world / "dataset", folder / "dataset")
    path = folder / "dataset" / open_dataset(folder / "dataset").items["image"][57]
    path.write_bytes(path.read_bytes()[:300])
    write_shards(Shards(dataset=str(folder / "dataset"), out=str(folder / "shards"), items_per_shard=18))
    return folder


def test_a_broken_picture_is_counted_and_gets_no_vector(table, broken, tmp_path):
    torch.manual_seed(0)
    info = export(Settings(data=str(broken / "shards"), out=str(tmp_path / "t"), encoder=ENCODER, batch=8))
    assert (info["count"], info["broken_pictures"]) == (159, 1)
    found, whole = read_table(tmp_path / "t"), read_table(table)
    lost = open_dataset(broken / "dataset").items["item_id"][57]
    assert set(whole.ids) - set(found.ids) == {lost}
    np.testing.assert_allclose(found.vectors, whole.lookup(found.ids)[0], atol=1e-5)


def test_a_damaged_tar_is_named_and_leaves_no_table(broken, tmp_path):
    shutil.copytree(broken / "shards", tmp_path / "s")
    with open(tmp_path / "s" / "items-00003.tar", "r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    with pytest.raises(UserError, match=r"^/\S+items-00003.tar is damaged: the picture of item 54"):
        export(Settings(data=str(tmp_path / "s"), out=str(tmp_path / "t"), encoder=ENCODER))
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("cores", [1, 3])
def test_chunks_reach_over_the_tars_and_cores_share_them(table, broken, tmp_path, monkeypatch, cores):
    encoded = []
    original = exporting.encode
    monkeypatch.setattr(exporting, "encode", lambda e, images, s: encoded.append(len(images)) or original(e, images, s))
    monkeypatch.setattr(exporting, "own_cores", lambda: cores)
    torch.manual_seed(0)
    info = export(Settings(data=str(broken / "shards"), out=str(tmp_path / "t"), encoder=ENCODER, batch=64))
    assert sorted(encoded) == [32, 64, 64]
    assert len(info["parts"]) == 9
    found = read_table(tmp_path / "t")
    np.testing.assert_allclose(found.vectors, read_table(table).lookup(found.ids)[0], atol=1e-6)


def test_nothing_but_broken_pictures_is_an_error(broken, tmp_path):
    shutil.copytree(broken / "dataset", tmp_path / "dataset")
    for file in (tmp_path / "dataset" / "images").iterdir():
        file.write_bytes(b"no picture")
    write_shards(Shards(dataset=str(tmp_path / "dataset"), out=str(tmp_path / "s")))
    with pytest.raises(UserError, match="none of the 160 pictures"):
        export(Settings(data=str(tmp_path / "s"), out=str(tmp_path / "t"), encoder=ENCODER))


def test_a_missing_run_says_how_to_make_it(tiny_world, tmp_path):
    write_json(tmp_path / "run.json", {"settings": {"encoder": {}}})
    with pytest.raises(UserError, match=r"accelerate launch pretrain/train.py"):
        export(Settings(data=str(tiny_world / "shards"), out=str(tmp_path / "t"), run=str(tmp_path)))
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_pandas_is_not_imported_for_an_export(tiny_world, tmp_path):
    """It takes as long as encoding a thousand small pictures."""
    code = f"""
import sys
from pretrain.export import Encoder, Settings, export

encoder = Encoder(name="test_byobnet", image_size=32)
export(Settings(data={str(tiny_world / "shards")!r}, out={str(tmp_path / "t")!r}, encoder=encoder))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=300)


@pytest.mark.slow
def test_two_processes_write_the_same_table(table, tiny_world, tmp_path):
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    weights = tmp_path / "w.safetensors"
    torch.manual_seed(0)
    write_tensors(weights, build_encoder(ENCODER).tower.state_dict())
    arguments = ["--data", tiny_world / "shards", "--out", tmp_path / "two", "--encoder.name", "test_byobnet"]
    arguments += ["--encoder.image_size", 32, "--encoder.weights", weights]
    subprocess.run(
        [*launch, "pretrain/export.py", *map(str, arguments)],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300,
    )  # fmt: skip
    one, two = read_table(table), read_table(tmp_path / "two")
    np.testing.assert_allclose(two.lookup(one.ids)[0], one.vectors, atol=1e-5)


@pytest.mark.slow
def test_a_vgg_gives_the_4096_numbers_of_its_last_hidden_layer(tiny_world, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(name="vgg11", image_size=32)
    export(Settings(data=str(tiny_world / "shards"), out=str(tmp_path / "t"), encoder=encoder, normalise=False))
    table = read_table(tmp_path / "t")
    assert table.vectors.shape == (160, 4096) and np.isfinite(table.vectors).all()
    # Rectified, and not the same for all pictures.
    assert (table.vectors >= 0).all() and table.vectors.std(axis=0).max() > 0
