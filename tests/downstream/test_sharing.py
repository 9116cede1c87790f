"""Models of several tasks and scenes against loops; the command that measures what sharing brings."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import read_json
from data_tools.tables.table import read_table, write_table
from downstream import transfer as command_module
from downstream.comparison import cells
from downstream.data.codes import FIRST_KNOWN, UNKNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.models.build import build_model
from downstream.models.multi_scene import PartitionedNorm
from downstream.models.multi_task import joint_loss
from downstream.settings import DataSettings
from downstream.statistics.metrics import auc
from downstream.studies import transfer
from downstream.studies.sharing import scene_parts, separate_scenes, separate_tasks, task_parts
from downstream.studies.transfer import measure
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingDefaults, TrainingSettings


@pytest.fixture(scope="module")
def data(tiny_world):
    return load_ctr_data(tiny_world / "dataset", DataSettings(history=4))


@pytest.fixture
def batch(data):
    return {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:60]).items()}


def built(data, name):
    torch.manual_seed(0)
    return build_model(data, None, ModelSettings(name, hidden=(8, 4)), ImageSettings())


def test_the_joint_loss_is_the_cross_entropy_of_the_product():
    rng = np.random.default_rng(0)
    click, purchase = rng.normal(size=(2, 50)) * 3
    conversion = (rng.random(50) < 0.3).astype(float)
    conversion[::7] = np.nan
    p = 1 / (1 + np.exp(-click)) / (1 + np.exp(-purchase))
    each = np.where(conversion == 1, -np.log(p), -np.log(1 - p))
    expected = each[~np.isnan(conversion)].sum() / 50
    assert joint_loss(*map(torch.from_numpy, (click, purchase, conversion))).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["esmm", "esmm_transfer"])
def test_conversions_are_clicks_times_purchases_and_clicks_are_the_base_model(data, batch, name):
    model, base = built(data, name).eval(), built(data, "embedding_mlp").eval()
    found = model.probabilities(batch)
    assert torch.equal(found["conversion"], found["click"] * found["purchase"])
    torch.testing.assert_close(found["click"], torch.sigmoid(base(batch)))
    with torch.no_grad():
        model.mlp[0].weight.mul_(1.5)  # the click's network
    passed_on = not torch.equal(model.probabilities(batch)["purchase"], found["purchase"])
    assert passed_on == (name == "esmm_transfer")


@pytest.mark.parametrize("name", ["scene_networks", "star"])
def test_every_row_goes_through_the_network_of_its_scene(data, batch, name):
    model = built(data, name).double()
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.3 * torch.randn_like(part))
    model.train()
    model(batch)
    logits, features = model.eval()(batch), model.features(batch)
    assert len(batch["scene"].unique()) > 1
    for row, scene in enumerate(batch["scene"].tolist()):
        x = features[row]
        if name == "star":
            mean = model.norm.mean[scene]
            spread = (model.norm.square[scene] - mean**2 + 1e-3) ** 0.5
            x = model.norm.gamma * model.norm.own_gamma[scene] * (x - mean) / spread
            x = x + model.norm.beta + model.norm.own_beta[scene]
        for place, layer in enumerate(model.layers):
            weight, bias = layer.own[scene], layer.own_bias[scene]
            if name == "star":
                weight, bias = weight * layer.shared, bias + layer.shared_bias
            x = (weight * x).sum(dim=1) + bias
            if place < 2:
                x = torch.where(x > 0, x, model.activations[place].weight * x)
        if name == "star":
            x = x + model.auxiliary(torch.cat([model.ids["scene"].weight[scene], features[row]]))
        assert logits[row].item() == pytest.approx(x.item(), abs=1e-9)


def test_partitioned_norm_keeps_the_statistics_of_each_scene_and_of_all():
    torch.manual_seed(0)
    norm = PartitionedNorm(4, 3)
    scene = torch.tensor([2, 3]).repeat(30)
    batches = [torch.randn(60, 3) + 5 * scene[:, None] for _ in range(4)]
    for x in batches:
        norm.update(x, scene)
    rows = torch.cat(batches)
    for code, own in ((2, rows[scene.repeat(4) == 2]), (3, rows[scene.repeat(4) == 3]), (UNKNOWN, rows)):
        torch.testing.assert_close(norm.mean[code], own.mean(dim=0), atol=1e-4, rtol=1e-4)
        expected = (own - own.mean(dim=0)) * torch.rsqrt(own.var(dim=0, correction=0) + 1e-3)
        torch.testing.assert_close(norm(own, code), expected, atol=1e-4, rtol=1e-3)


def test_a_scene_that_training_lacks_has_the_shared_network(data, batch):
    settings = TrainingSettings(data.settings, ModelSettings("star"))
    model = build_model(data, None, settings.model, ImageSettings())
    model.load_state_dict(fit(data, None, settings, 0).state)
    for layer in model.layers:
        assert (layer.own[UNKNOWN] == 1).all() and not (layer.own[FIRST_KNOWN] == 1).all()
    with torch.no_grad():
        assert model.eval()({**batch, "scene": torch.full_like(batch["scene"], UNKNOWN)}).isfinite().all()


def test_a_hidden_layer_to_pass_on_is_needed(data):
    with pytest.raises(UserError, match="passes on a hidden layer, but hidden is empty"):
        build_model(data, None, ModelSettings("esmm_transfer", hidden=()), ImageSettings())


@pytest.mark.parametrize("name, lacking", [("esmm", "conversion"), ("star", "scene")])
def test_data_that_a_model_needs(data, name, lacking):
    with pytest.raises(UserError, match=f"needs {lacking}s, and .* has no column '{lacking}'"):
        built(replace(data, **{lacking: None}), name)


def test_separate_models_see_their_own_rows_alone(data):
    shown = []

    def train(model, own):
        shown.append(own)
        return {"click": np.arange(len(own.rows["test"]), dtype=np.float32)}

    test = data.rows["test"]
    found = dict(separate_scenes(data, train))
    for own in shown[:-1]:
        scenes = {int(data.scene[rows].item()) for rows in np.concatenate(list(own.rows.values()))[:, None]}
        assert len(scenes) == 1
    assert shown[-1].scene is None and "scene" not in shown[-1].sizes
    places = [np.flatnonzero(data.scene[test] == scene) for scene in np.unique(data.scene[test])]
    for own in places:
        assert found["separate"]["click"][own].tolist() == list(range(len(own)))
    shown.clear()
    dict(separate_tasks(data, train))
    conversions, clicks, purchases = shown
    assert np.array_equal(conversions.click, data.conversion) and clicks is data
    assert (data.click[purchases.rows["train"]] == 1).all() and np.array_equal(purchases.rows["test"], test)


def test_parts_hold_what_they_name(data):
    test = data.rows["test"]
    parts = task_parts(data)
    clicked = parts["purchases, clicks"]
    assert np.array_equal(test[clicked.place], test[data.click[test] == 1])
    assert np.array_equal(clicked.label, data.conversion[test[clicked.place]])
    scenes = scene_parts(data)
    names = data.dataset.impressions["scene"].to_numpy()[test]
    assert set(scenes) == {"all", *names}
    assert np.array_equal(scenes["new"].place, np.flatnonzero(names == "new"))


@pytest.mark.parametrize("kind, models", [("tasks", '["esmm"]'), ("scenes", '["star"]')])
def test_the_command_writes_its_figures_and_continues(tiny_world, tmp_path, monkeypatch, kind, models):
    given = ["--dataset", str(tiny_world / "dataset"), "--kind", kind, "--models", models, "--seeds", "[0, 1]"]
    given += ["--cache", str(tmp_path / "cache"), "--bootstrap.resamples", "20", "--training.data.history", "4"]
    monkeypatch.setattr("sys.argv", ["program", *given, "--out", str(tmp_path / "out")])
    command_module.main()
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    report = (tmp_path / "out" / "report.md").read_text()
    first = next(cell for cell in figures["cells"] if cell["contestant"] == "separate")
    assert f"## {first['part']}" in report and "| separate |" in report
    monkeypatch.setattr(transfer, "fit", None)  # nothing is trained again
    monkeypatch.setattr("sys.argv", ["program", *given, "--out", str(tmp_path / "again")])
    command_module.main()
    again = json.loads((tmp_path / "again" / "figures.json").read_text())
    assert again["cells"] == figures["cells"] and again["differences"] == figures["differences"]


def test_a_table_that_was_replaced_is_trained_with(tiny_world, tmp_path, monkeypatch):
    planted = read_table(tiny_world / "planted")
    given = ["--dataset", str(tiny_world / "dataset"), "--kind", "tasks", "--models", '["esmm"]', "--seeds", "[0]"]
    given += ["--cache", str(tmp_path / "cache"), "--table", str(tmp_path / "table"), "--bootstrap.resamples", "5"]
    found = []
    for name, vectors in (("first", planted.vectors), ("second", planted.vectors[::-1])):
        shutil.rmtree(tmp_path / "table", ignore_errors=True)
        write_table(tmp_path / "table", planted.ids, vectors, {})
        monkeypatch.setattr("sys.argv", ["program", *given, "--out", str(tmp_path / name)])
        for kept in (cells.table_once, cells.table_digest):  # of the same process; a command reads a table once
            kept.cache_clear()
        command_module.main()
        found.append(read_json(tmp_path / name / "figures.json")["cells"])
    assert found[0] != found[1]


def test_metrics_are_of_the_parts(data, tmp_path):
    settings = transfer.TransferSettings(
        out="o", dataset="d", kind="scenes", models=["star"], seeds=[0], cache=str(tmp_path),
        training=TrainingDefaults(data.settings), bootstrap=transfer.BootstrapSettings(resamples=10),
    )  # fmt: skip
    figures = measure(data, settings, progress_bar(shown=False))
    result = fit(data, None, TrainingSettings(data.settings, ModelSettings("star")), 0)
    place = scene_parts(data)["search"].place
    expected = auc(data.click[data.rows["test"]][place], result.test_scores[place])
    found = [c["auc"] for c in figures["cells"] if (c["contestant"], c["part"]) == ("star", "search")]
    assert found == [pytest.approx(expected, abs=1e-12)]
