"""An encoder in the loop: the table's vectors come out of it, and the click's gradient reaches it."""

import json

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.common.tensors import write_tensors
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.data.ctr_data import load_ctr_data
from downstream.images import encoder as end_to_end
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export import Settings, export
from pretrain.settings import Encoder

FORMS = ["vector", "simscore"]


@pytest.fixture(scope="module")
def data(tiny_world):
    return load_ctr_data(tiny_world / "dataset", DataSettings(history=5))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What pre-training leaves behind: settings and weights."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    settings = {"name": "test_byobnet", "dimensions": 8, "image_size": 32}
    (folder / "run.json").write_text(json.dumps({"settings": {"encoder": settings}}))
    torch.manual_seed(0)
    encoder = build_encoder(Encoder(**settings)).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.5 * (weight == 0).all())  # branches that start at nothing pass no gradient on
    write_tensors(folder / "best.safetensors", encoder.state_dict())
    return folder


@pytest.fixture(scope="module")
def tables(run, tiny_world, tmp_path_factory):
    """Tables of that encoder that lack three items, with vectors of length 1 and as they come."""
    made = {}
    for normalise in (True, False):
        out = tmp_path_factory.mktemp("tables") / "tiny"
        export(Settings(data=str(tiny_world / "shards"), out=str(out), run=str(run), normalise=normalise))
        whole = read_table(out)
        made[normalise] = EmbeddingTable(whole.ids[3:], whole.vectors[3:], whole.info)
    return made


@pytest.fixture(scope="module")
def table(tables):
    return tables[True]


def built(data, table, **image):
    torch.manual_seed(0)
    return build_model(data, join_table(table, data), ModelSettings(), ImageSettings(**image))


def some(data, count=40):
    """A batch of the test split; the shown item of its first impression is not in the table."""
    rows = data.rows["test"]
    rows = np.concatenate([rows[data.item[rows] < 3][:1], rows[: count - 1]])
    return {name: torch.from_numpy(values) for name, values in data.batch(rows).items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_that_has_learned_nothing_is_the_table(data, tables, form, normalised, training):
    table = tables[normalised]
    frozen, encoded = (built(data, table, form=form, tune=tune).train(training) for tune in ("frozen", "encoder"))
    batch = some(data)
    torch.testing.assert_close(encoded(batch), frozen(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_reaches_every_weight_of_the_encoder(data, table, form):
    model = built(data, table, form=form, tune="encoder").train()
    model.loss(some(data)).backward()
    encoder = dict(model.named_parameters())
    encoder = {name: weight for name, weight in encoder.items() if ".encoder." in name}
    assert len(encoder) > 10
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.values())


def test_many_pictures_are_encoded_in_parts_with_the_same_gradient(data, table, monkeypatch):
    model = built(data, table, tune="encoder").train()
    gradients = []
    for chunk in (256, 25):
        monkeypatch.setattr(end_to_end, "CHUNK", chunk)
        model.zero_grad()
        model.loss(some(data)).backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_each_distinct_picture_of_a_batch_is_decoded_and_encoded_once(data, table, monkeypatch):
    decoded, encoded = [], []
    read, encode = end_to_end.read_image, end_to_end.Encoder.forward
    monkeypatch.setattr(end_to_end, "read_image", lambda *given: decoded.append(1) or read(*given))
    monkeypatch.setattr(
        end_to_end.Encoder, "forward", lambda self, pictures: encoded.append(len(pictures)) or encode(self, pictures)
    )
    model = built(data, table, tune="encoder").train()
    batch = some(data)
    pictured = int(model.images.embed.features.found[batch["row"]].sum())
    assert pictured < len(batch["row"])
    model.images.embed.features.pictures.kept.clear()
    decoded.clear(), encoded.clear()
    model(batch)
    assert len(decoded) == sum(encoded) == pictured
    model(batch)
    assert len(decoded) == pictured and sum(encoded) == 2 * pictured
    encoded.clear()
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model(batch), model(batch))
    assert sum(encoded) == pictured


def test_training_moves_the_encoder_and_the_kept_weights_are_scored(data, table):
    optim = OptimSettings(batch_size=512, epochs=2)
    image = ImageSettings(tune="encoder", lr=1e-3, hidden=(16,))
    result = fit(data, table, TrainingSettings(data.settings, image=image, optim=optim), 0)
    start = built(data, table, tune="encoder", hidden=(16,))
    moved = {name for name, value in result.state.items() if ".encoder." in name and "running" not in name}
    moved = {name for name in moved if not torch.equal(start.state_dict()[name], result.state[name])}
    assert len(moved) > 10
    running = [name for name in result.state if "running_mean" in name]
    assert all(torch.equal(start.state_dict()[name], result.state[name]) for name in running)
    start.load_state_dict(result.state)
    rows = data.rows["test"]
    batch = {name: torch.from_numpy(values) for name, values in data.batch(rows).items()}
    scores = start.eval().probabilities(batch)["click"].detach().numpy()
    np.testing.assert_allclose(scores, result.test_scores, atol=1e-5)


def test_what_does_not_fit_is_named(data, table, run, tmp_path):
    with pytest.raises(UserError, match="needs a table made by"):
        built(data, EmbeddingTable(table.ids, table.vectors), tune="encoder")
    other = EmbeddingTable(table.ids, table.vectors, {**table.info, "encoder": {**table.info["encoder"], "name": "x"}})
    with pytest.raises(UserError, match="timm has no model 'x'"):
        built(data, other, tune="encoder")
    other.info["encoder"]["name"] = "open_clip:ViT-B-32"
    with pytest.raises(UserError, match="supports timm models only"):
        built(data, other, tune="encoder")
    with pytest.raises(UserError, match="no encoder weights at nowhere"):
        built(data, table, tune="encoder", weights="nowhere")
    torch.manual_seed(1)
    write_tensors(tmp_path / "other.safetensors", build_encoder(Encoder(dimensions=8, image_size=32)).state_dict())
    with pytest.raises(UserError, match="does not make the table's vectors"):
        built(data, table, tune="encoder", weights=str(tmp_path / "other.safetensors"))
    write_tensors(tmp_path / "part.safetensors", {"tower.x": torch.zeros(1), "head.weight": torch.zeros(8, 32)})
    with pytest.raises(UserError, match="no linear layer to 8"):
        built(data, table, tune="encoder", weights=str(tmp_path / "part.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"broken\.safetensors is damaged"):
        built(data, table, tune="encoder", weights=str(tmp_path / "broken.safetensors"))
    with pytest.raises(UserError, match="only tune 'encoder' reads them"):
        ImageSettings(weights="file")
    files = join_table(table, data)
    files.pictures[int(np.flatnonzero(files.found & files.warm)[0])] = "missing.png"
    with pytest.raises(UserError, match=r"its picture .*missing.png cannot be read"):
        build_model(data, files, ModelSettings(), ImageSettings(tune="encoder"))
