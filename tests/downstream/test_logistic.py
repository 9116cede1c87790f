"""Logistic regression against a loop, and that it is linear."""

import numpy as np
import pytest
import torch

from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings
from downstream.training.settings import ImageSettings, ModelSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


def test_logits_equal_a_loop(data):
    torch.manual_seed(0)
    model = build_model(data, None, ModelSettings("logistic"), ImageSettings()).double()
    batch = {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:40]).items()}
    weights = {name: embedding.weight.detach().numpy() for name, embedding in model.ids.items()}

    def weight(place, column):
        words = [weights["words"][code, column] for code in batch["words"][place] if code]
        own = sum(weights[name][batch[name][place], column] for name in ("item", "category"))
        return own + (np.mean(words) if words else 0.0)

    logits = model(batch)
    for row in range(40):
        target = batch["target"][row]
        clicked = [place for place, kept in zip(batch["history"][row], batch["mask"][row], strict=True) if kept]
        category = batch["category"][target]
        same = [sum(place == target for place in clicked), 0]
        if category != UNKNOWN:
            same[1] = sum(batch["category"][place] == category for place in clicked)
        expected = weights["user"][batch["user"][row]].sum() + weight(target, 0)
        expected += np.mean([weight(place, 1) for place in clicked]) if clicked else 0.0
        expected += model.agreement(torch.tensor(same, dtype=torch.float64).log1p()).item()
        assert logits[row].item() == pytest.approx(float(expected), abs=1e-9)


def test_images_enter_linearly(data, small_world):
    torch.manual_seed(0)
    images = join_table(small_world.table, data)
    model = build_model(data, images, ModelSettings("logistic"), ImageSettings(form="simscore"))
    batch = {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:40]).items()}
    with torch.no_grad():
        before = model(batch)
        features = model.images(batch, None)
        model.of_images.weight.zero_()
        without = model(batch)
        model.of_images.weight.fill_(1.0)
        torch.testing.assert_close(model(batch) - without, features.sum(dim=1))
    assert (before != without).any()
