"""MAKE: its features against a loop, and a stage of its own that sees training clicks and no later ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from downstream.data.ctr_data import load_ctr_data
from downstream.forms.make import Make
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


@pytest.fixture
def staged(monkeypatch):
    """Weights of every multimodal model right after its stage."""
    states = []
    fit_form = Make.fit

    def fit_and_keep(self, train):
        fit_form(self, train)
        states.append({name: value.clone() for name, value in self.multimodal.state_dict().items()})

    monkeypatch.setattr(Make, "fit", fit_and_keep)
    return states


def settings(data, form="make", epochs=5, **image):
    image = ImageSettings(form=form, make=Make.Settings(epochs=epochs), **image)
    return TrainingSettings(data.settings, image=image, optim=OptimSettings(batch_size=64))


def test_features_are_the_hidden_layers_and_the_logit(data, small_world):
    torch.manual_seed(0)
    images = join_table(small_world.table, data)
    image = ImageSettings(form="make", make=Make.Settings(hidden=(9, 5)))
    form = build_model(data, images, ModelSettings(), image).images.double()
    batch = {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:20]).items()}
    inputs = form.multimodal.images(batch, None).detach().numpy()
    features = form(batch, None).numpy()
    assert features.shape == (20, form.width) == (20, 9 + 5 + 1)
    expected = []
    for layer, activated in zip(form.multimodal.mlp, [True, True, False], strict=True):
        linear = layer[0]
        inputs = inputs @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        inputs = np.where(inputs < 0, 0.25 * inputs, inputs) if activated else inputs
        expected.append(inputs)
    np.testing.assert_allclose(features, np.concatenate(expected, axis=1), atol=1e-6)
    np.testing.assert_allclose(features[:, -1], form.multimodal(batch).detach().numpy(), atol=1e-12)


def test_the_stage_trains_and_then_stays_as_it_is(data, small_world, staged):
    result = fit(data, small_world.table, settings(data, epochs=4), 0)
    kept = {name: value for name, value in result.state.items() if "multimodal" in name}
    assert kept
    for name, value in kept.items():
        assert torch.equal(value, staged[0][name.removeprefix("images.multimodal.")])
    torch.manual_seed(0)
    start = build_model(data, join_table(small_world.table, data), ModelSettings(), ImageSettings(form="make"))
    assert any((start.state_dict()[name] != value).any() for name, value in kept.items())


def test_next_to_another_form_the_stage_is_trained_too(data, small_world, staged):
    result = fit(data, small_world.table, settings(data, "simtier_make", centre=True, epochs=2), 0)
    assert len(staged) == 1 and 1 <= len(result.report["make"]) <= 2
    assert torch.equal(result.state["images.forms.1.multimodal.mlp.0.0.weight"], staged[0]["mlp.0.0.weight"])
    assert (result.state["images.forms.0.weight"] != 1).any()


def test_the_stage_stops_at_the_first_epoch_that_is_no_better(data, small_world):
    stage = fit(data, small_world.table, settings(data, epochs=30), 0).report["make"]
    values = [epoch["valid"]["auc"] for epoch in stage]
    assert 1 < len(values) < 30
    assert values[-1] <= max(values[:-1]) and (np.diff(values[:-1]) > 0).all()


def test_the_stage_learns_from_training_clicks_alone(data, small_world, staged):
    later = np.concatenate([data.rows["valid"], data.rows["test"]])
    click = data.click.copy()
    click[later] = 1 - click[later]
    flipped = replace(data, click=click)
    click = data.click.copy()
    click[data.rows["train"]] = 1 - click[data.rows["train"]]
    for world in (data, flipped, replace(data, click=click)):
        fit(world, small_world.table, settings(data, epochs=1), 0)
    name = "mlp.0.0.weight"
    assert torch.equal(staged[0][name], staged[1][name])
    assert not torch.equal(staged[0][name], staged[2][name])
