"""DICM with the image server in one and two processes, against DICM with the whole table in one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from ams_group import run_group
from safetensors.torch import save_file

from data_tools.common.cli import UserError
from data_tools.tables.table import read_table
from downstream.ams.feature_store import FeatureStore, append, create_store, open_store
from downstream.ams.serving import Serving, precompute, read_model
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings, ServerSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, TrainingSettings

SERVERS = {
    "local": ServerSettings(),
    "ams": ServerSettings("ams", hot=5, shard_ids=True),
    "server": ServerSettings("server"),
}
# Hidden IDs are drawn by each process, so only without them do two do what one does.
SETTINGS = TrainingSettings(DataSettings(history=6), optim=OptimSettings(batch_size=64, unknown_rate=0.0))


def fitted(folder, store, server):
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    data = load_ctr_data(folder, SETTINGS.data)
    return fit(data, open_store(store), replace(SETTINGS, server=server), seed=0)


def in_a_group(rank, processes, folder, store, out):
    assert PartialState(cpu=True).num_processes == processes
    for number, server in enumerate(SERVERS.values()):
        result = fitted(folder, store, server)
        if rank == processes - 1:  # any has the whole result
            torch.save({"scores": torch.from_numpy(result.test_scores), **result.state}, f"{out}/{number}.pt")


@pytest.fixture(scope="module")
def store(small_world, tmp_path_factory):
    """Features of all items but two, the last ones appended later."""
    ids, vectors = small_world.table.ids[2:], small_world.table.vectors[2:]
    made = create_store(tmp_path_factory.mktemp("store") / "store", vectors.shape[1:], vectors.dtype, 3)
    return append(append(made, [(ids[:30], vectors[:30])]), [(ids[30:], vectors[30:])])


def test_one_setting_changes_where_images_are_embedded_and_not_what_is_learned(small_world, store, tmp_path):
    expected = fitted(small_world.folder, store.folder, ServerSettings())
    assert expected.items_without_image == 2
    served = fitted(small_world.folder, store.folder, SERVERS["ams"])
    np.testing.assert_allclose(served.test_scores, expected.test_scores, rtol=1e-4)
    assert served.items_without_image == 2
    run_group(in_a_group, 2, str(small_world.folder), str(store.folder), str(tmp_path))
    # The last batch leaves one process a row more: the mean of their means is not quite the mean of all.
    local = torch.load(tmp_path / "0.pt", weights_only=True)
    np.testing.assert_allclose(local["scores"], expected.test_scores, rtol=5e-3)
    for number, name in enumerate(SERVERS):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        np.testing.assert_allclose(found["scores"], local["scores"], rtol=1e-4, err_msg=name)
        assert found.keys() >= local.keys()
        for weight in ("images.embed.layers.0.weight", "images.embed.no_image", "ids.item.weight"):
            torch.testing.assert_close(found[weight], local[weight], rtol=1e-3, atol=1e-4, msg=f"{name}: {weight}")


def test_serving_gives_what_training_saw_from_the_table_and_on_the_fly(small_world, store, tmp_path):
    result = fitted(small_world.folder, store.folder, SERVERS["ams"])
    save_file(result.state, tmp_path / "model.safetensors")
    model = read_model(tmp_path)
    features = store.partition().read(np.arange(store.count))
    embed = {name.removeprefix("images.embed."): value.double() for name, value in result.state.items()}
    values = (torch.from_numpy(features).double() - embed["centre"]) / embed["scale"]
    for place in range(len(model.layers)):  # layer by layer, in float64
        weight = embed[f"layers.{place}.weight"]
        if weight.ndim == 2:
            values = values @ weight.T + embed[f"layers.{place}.bias"]
        else:
            values = torch.where(values > 0, values, values * weight)
    ids = store.ids().to_list()
    known = FeatureStore(store.folder, 30, store.shape, store.dtype, store.parts, store.appended[:1])
    precompute(model, known, tmp_path / "table", {})  # as of before the last appending
    serving = Serving(read_table(tmp_path / "table"), model)
    assert len(serving.row_of) == 30 < store.count
    np.testing.assert_allclose(serving(ids, store), values.numpy(), rtol=1e-4, atol=1e-5)
    # The same images through the table and on the fly, to the last bits.
    np.testing.assert_allclose(serving(ids[:30]), model(features[:30]), rtol=1e-6, atol=1e-6)
    absent = serving(["nowhere", ids[35]])
    np.testing.assert_array_equal(absent, np.stack([model.no_image] * 2))
    local = fitted(small_world.folder, store.folder, ServerSettings())
    (tmp_path / "local").mkdir()
    save_file(local.state, tmp_path / "local" / "model.safetensors")
    with pytest.raises(UserError, match="not trained with an image server"):
        read_model(tmp_path / "local")


def test_what_a_server_cannot_do_is_named(small_world, store):
    data = load_ctr_data(small_world.folder, SETTINGS.data)
    served = replace(SETTINGS, server=ServerSettings("ams"))
    with pytest.raises(UserError, match=r"needs a feature store; make one with python -m downstream.store"):
        fit(data, small_world.table, served, 0)
    with pytest.raises(UserError, match=r"image\.form 'simscore' needs raw features"):
        replace(served, image=ImageSettings(form="simscore"))
    with pytest.raises(UserError, match="serves frozen features only"):
        replace(served, image=ImageSettings(tune="table"))
    for wrong, said in (
        ({"strategy": "amz"}, "choose one of local, ams"),
        ({"wire": "float8"}, "choose one of float32, bfloat16"),
        ({"hot": -1}, "must be >= 0"),
        ({"strategy": "worker", "hot": 3}, "no image is sent"),
        ({"wire": "bfloat16"}, "nothing is sent"),
        ({"verify": False}, "reads no feature store"),
    ):
        with pytest.raises(UserError, match=said):
            ServerSettings(**wrong)
