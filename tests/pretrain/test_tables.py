"""Vectors of a table in place of pictures: the same learning as behind a frozen tower, and what may go wrong."""

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, read_json_lines
from data_tools.sharding.read import all_records, open_shards
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.tables.table import read_table, write_table
from pretrain.data.pictures import PictureSet
from pretrain.encoder.families.tables import Table
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export import Settings as Export
from pretrain.export import export
from pretrain.settings import Batch, Encoder, Evaluation, Objective, Optim, Settings
from pretrain.train import train


def settings(world, out, encoder, **changes):
    given = {
        "data": str(world / "shards"),
        "out": str(out),
        "encoder": encoder,
        "batch": Batch(rows=32, history=5, slots=4, workers=0, crop_scale=1, flip=False),
        "optim": Optim(steps=4, lr=1e-2, warmup=1, precision="fp32"),
        "evaluation": Evaluation(every=4, requests=200, history=5),
        "log_every": 1,
    }
    return Settings(**given | changes)


def losses(run):
    return [line["loss"] for line in read_json_lines(run / "log.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def features(tiny_world, tmp_path_factory):
    """Features of a tower with random weights, exported as a table of one vector an item."""
    out = tmp_path_factory.mktemp("features") / "table"
    named = Encoder(name="test_byobnet", image_size=32, dimensions=0)
    torch.manual_seed(0)
    export(Export(data=str(tiny_world / "shards"), out=str(out), encoder=named, normalise=False))
    return out


@pytest.fixture
def on_vectors(tiny_world, features, tmp_path):
    """Trains on the features; called with the encoder's settings and further ones."""

    def run(table=None, objective=None, **options):
        encoder = Encoder(family="table", name=str(features), dimensions=8, table=Table.Settings(**options))
        train(settings(tiny_world, tmp_path / "run", encoder, **({"objective": objective} if objective else {})))
        return tmp_path / "run"

    return run


def test_a_head_on_vectors_learns_what_it_learns_behind_the_frozen_tower(tiny_world, features, tmp_path, monkeypatch):
    class Frozen(torch.nn.Module):
        """The tower whose features the table holds, asked for each picture."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.tower = build_encoder(Encoder(name="test_byobnet", image_size=32, dimensions=0)).eval()

        def forward(self, items):
            with torch.no_grad():
                return self.tower(torch.stack([pictures[int(item)] for item in items]))

    shards = open_shards(tiny_world / "shards")
    items = [record["item"] for record in all_records(shards, "items")]
    images = torch.cat(list(PictureSet(shards.pictures("items"), items, 32).split(64)))
    pictures = dict(zip(items, images, strict=True))
    encoder = Encoder(family="table", name=str(features), dimensions=8, table=Table.Settings(standardise=False))
    train(settings(tiny_world, tmp_path / "vectors", encoder))
    frozen = Frozen()
    monkeypatch.setattr("pretrain.encoder.families.tables.VectorTower.forward", lambda tower, items: frozen(items))
    train(settings(tiny_world, tmp_path / "tower", encoder))
    assert losses(tmp_path / "vectors") == pytest.approx(losses(tmp_path / "tower"), rel=1e-4)
    assert len(losses(tmp_path / "vectors")) == 4


@pytest.mark.parametrize("adapter", ["linear", "mlp", "residual"])
def test_a_run_on_vectors_gives_an_adapted_table(on_vectors, tiny_world, features, tmp_path, adapter):
    run = on_vectors(adapter=adapter)
    export(Export(run=str(run), data=str(tiny_world / "shards"), out=str(tmp_path / "table")))
    given, adapted = read_table(features), read_table(tmp_path / "table")
    assert adapted.ids == given.ids and adapted.vectors.shape == (len(given.ids), 8)
    assert read_json(run / "summary.json")["steps"] == 4


def test_a_residual_adapter_starts_as_the_table(tiny_world, features):
    options = Table.Settings(adapter="residual", standardise=False)
    encoder = build_encoder(Encoder(family="table", name=str(features), dimensions=0, table=options))
    table = read_table(features)
    found = encoder(torch.arange(len(table.ids))).detach().numpy()
    np.testing.assert_allclose(found, table.vectors, rtol=1e-6)


def test_each_number_can_be_standardised_by_its_own_spread(tiny_world, features):
    options = Table.Settings(adapter="residual", each_number=True)
    encoder = build_encoder(Encoder(family="table", name=str(features), dimensions=0, table=options))
    vectors = read_table(features).vectors
    found = encoder(torch.arange(len(vectors))).detach().numpy()
    spread = vectors.std(axis=0)
    expected = (vectors - vectors.mean(axis=0)) / np.where(spread > 1e-12, spread, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(UserError, match="each_number says how to standardise"):
        Table.Settings(each_number=True, standardise=False)


def test_vectors_of_new_items_are_adapted(on_vectors, tiny_world, features, tmp_path):
    run, given = on_vectors(), read_table(features)
    write_table(tmp_path / "new", ["x", "y"], given.vectors[[5, 3]], {})
    for name, vectors in (("all", None), ("fresh", str(tmp_path / "new"))):
        export(Export(run=str(run), data=str(tiny_world / "shards"), out=str(tmp_path / name), vectors=vectors))
    found, whole = read_table(tmp_path / "fresh"), read_table(tmp_path / "all")
    assert found.ids == ["x", "y"]
    np.testing.assert_allclose(found.vectors, whole.vectors[[5, 3]], rtol=1e-5)


def test_views_of_one_vector_differ_by_dropout(on_vectors):
    assert len(losses(on_vectors(objective=Objective(name="simclr"), dropout=0.2))) == 4


def test_what_does_not_fit_is_named(on_vectors, tiny_world, features, tmp_path):
    write_table(tmp_path / "other", ["q"], np.ones((1, 4), np.float32), {})
    with pytest.raises(UserError, match=r"has no vector for .* of the .* items"):
        build_encoder(Encoder(family="table", name=str(tmp_path / "other")), str(tiny_world / "shards"))
    with pytest.raises(UserError, match="no embedding table at nowhere"):
        build_encoder(Encoder(family="table", name="nowhere"))
    run = on_vectors()
    wrong = Export(
        run=str(run), data=str(tiny_world / "shards"), out=str(tmp_path / "t"), vectors=str(tmp_path / "other")
    )
    with pytest.raises(UserError, match="vectors of size 4, the run was trained on vectors of size"):
        export(wrong)
    assert not (tmp_path / "t").exists()


@pytest.fixture(scope="module")
def without_pictures(tiny_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "shards"
    made = open_shards(tiny_world / "shards").index["settings"] | {"pictures": "none"}
    write_shards(Shards(**made | {"dataset": str(tiny_world / "dataset"), "out": str(out)}))
    return out


def test_shards_without_pictures_hold_the_same_requests(tiny_world, without_pictures):
    bare, whole = open_shards(without_pictures), open_shards(tiny_world / "shards")
    for kind in ("items", "train", "valid", "test"):
        assert list(all_records(bare, kind)) == list(all_records(whole, kind))
    assert sum(shard["image_bytes"] for shard in bare.index["items"]) == 0


def test_a_head_is_trained_without_any_picture_to_the_same_losses(tiny_world, without_pictures, features, tmp_path):
    encoder = Encoder(family="table", name=str(features), dimensions=8)
    train(settings(tiny_world, tmp_path / "with", encoder))
    train(settings(tiny_world, tmp_path / "without", encoder, data=str(without_pictures)))
    assert losses(tmp_path / "without") == losses(tmp_path / "with")


def test_an_encoder_of_pictures_is_refused_where_there_are_none(tiny_world, without_pictures, tmp_path):
    encoder = Encoder(name="test_byobnet", image_size=32)
    with pytest.raises(UserError, match=r"written with data_tools.shards --pictures none: train on vectors"):
        train(settings(tiny_world, tmp_path / "run", encoder, data=str(without_pictures)))
    with pytest.raises(UserError, match=r"--pictures none goes with --layout catalogue"):
        Shards(dataset="d", out="o", pictures="none", layout="streaming")
