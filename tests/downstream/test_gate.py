"""The gate: what it multiplies, which category it closes, and what it reports."""

import numpy as np
import polars as pl
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.tables.table import EmbeddingTable
from downstream.data.ctr_data import load_ctr_data
from downstream.forms.registry import FORMS
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


@pytest.mark.parametrize("form", FORMS)
def test_the_gate_multiplies_the_features_by_the_number_of_the_shown_items_category(data, small_world, form):
    torch.manual_seed(0)
    images = join_table(small_world.table, data)
    gated = build_model(data, images, ModelSettings(), ImageSettings(form=form, gate=True)).images
    batch = {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:30]).items()}
    ids = torch.randn(30, 36)
    torch.testing.assert_close(gated(batch, ids), gated.form(batch, ids) / 2)
    with torch.no_grad():
        gated.weight.copy_(torch.linspace(-0.3, 0.3, len(gated.weight))[:, None])
    category = batch["category"][batch["target"]].numpy()
    assert len(np.unique(category)) == 2
    expected = 1 / (1 + np.exp(-10 * np.linspace(-0.3, 0.3, len(gated.weight))))[category]
    features = gated(batch, ids).detach().numpy()
    np.testing.assert_allclose(features, gated.form(batch, ids).detach().numpy() * expected[:, None], rtol=1e-5)


def test_the_gate_of_the_category_whose_vectors_say_nothing_closes(world):
    data = load_ctr_data(world.folder, DataSettings(history=6))
    category = data.dataset.items["category"].to_numpy()
    mixed = np.where((category == "hats")[:, None], world.table.vectors, 3 * world.random.vectors)
    image = ImageSettings(gate=True, behaviour_images=False)
    settings = TrainingSettings(data.settings, image=image, optim=OptimSettings(batch_size=128, epochs=3))
    gates = {
        row["category"]: row for row in fit(data, EmbeddingTable(world.table.ids, mixed), settings, 0).report["gates"]
    }
    assert set(gates) == {"hats", "bags"}
    assert gates["hats"]["gate"] > gates["bags"]["gate"] + 0.1
    assert all(0 <= row["gate"] <= 1 for row in gates.values())
    for name, row in gates.items():
        assert row["items"] == int((data.warm & (category == name)).sum())
        assert row["impressions"] == int((category[data.item[data.rows["train"]]] == name).sum())


def test_items_without_a_category_share_a_gate(small_world, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name in ("impressions.parquet", "clicks.parquet", "dataset.json"):
        (folder / name).symlink_to(small_world.folder / name)
    items = pl.read_parquet(small_world.folder / "items.parquet")
    fewer = items.with_columns(category=pl.when(pl.col("item") % 3 > 0).then("category"))
    fewer.write_parquet(folder / "items.parquet")
    data = load_ctr_data(folder, DataSettings(history=6))
    settings = TrainingSettings(data.settings, image=ImageSettings(gate=True), optim=OptimSettings(batch_size=64))
    gates = fit(data, small_world.table, settings, 0).report["gates"]
    assert {row["category"] for row in gates} == {"hats", "bags", None}
    assert sum(row["items"] for row in gates) == data.warm.sum()
    assert sum(row["impressions"] for row in gates) == len(data.rows["train"])

    items.with_columns(category=pl.lit(None, pl.String)).write_parquet(folder / "items.parquet")
    with pytest.raises(UserError, match=r"image\.gate .* have none"):
        fit(load_ctr_data(folder, DataSettings(history=6)), small_world.table, settings, 0)


def test_towers_take_no_gate(data):
    with pytest.raises(UserError, match=r"image\.gate is True, but model 'dssm' does not use it"):
        TrainingSettings(data.settings, ModelSettings(name="dssm"), ImageSettings(gate=True))
