"""Forms against their formulas, DICM against the ID model it contains, and what reaches the click."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.tables.table import EmbeddingTable
from downstream.data.codes import FIRST_KNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.forms.registry import FORMS
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.models.registry import MODELS
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


@pytest.fixture
def batch(data):
    return {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:40]).items()}


def without(table: EmbeddingTable, items: int) -> EmbeddingTable:
    return EmbeddingTable(table.ids[items:], table.vectors[items:])


def built(data, table, name="dicm", **image):
    torch.manual_seed(0)
    images = join_table(table, data) if table else None
    return build_model(data, images, ModelSettings(name=name), ImageSettings(**image))


def test_dicm_without_a_table_is_the_id_model(data, batch):
    dicm, ids = built(data, None), built(data, None, "embedding_mlp")
    assert dicm.state_dict().keys() == ids.state_dict().keys()
    assert torch.equal(dicm(batch), ids(batch))


def test_ids_start_alike_with_and_without_images(data, small_world):
    dicm, ids = built(data, small_world.table), built(data, None)
    for name, embedding in ids.ids.items():
        assert torch.equal(dicm.ids[name].weight, embedding.weight)


def test_the_id_model_equals_a_loop(data, batch):
    model = built(data, None).double()
    weights = {name: embedding.weight.detach().numpy() for name, embedding in model.ids.items()}

    def item(place):
        words = [weights["words"][code] for code in batch["words"][place] if code]
        title = np.mean(words, axis=0) if words else np.zeros(12)
        own = [weights[name][batch[name][place]] for name in ("item", "category")]
        return np.concatenate([*own, title])

    for row in range(40):
        clicked = [item(place) for place, kept in zip(batch["history"][row], batch["mask"][row], strict=True) if kept]
        clicked = np.mean(clicked, axis=0) if clicked else np.zeros(36)
        features = np.concatenate([weights["user"][batch["user"][row]], item(batch["target"][row]), clicked])
        expected = model.mlp(torch.from_numpy(features)).item()
        assert model(batch)[row].item() == pytest.approx(expected, abs=1e-12)


def test_simscore_is_the_cosine_standardised_by_all_pairs_of_training_items(data, batch, small_world):
    table = without(small_world.table, 3)
    model = built(data, table, form="simscore").images
    vectors, found = table.lookup(data.item_ids)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    fitted = unit[found & data.warm].astype(np.float64)
    pairs = fitted @ fitted.T
    assert model.mean == pytest.approx(pairs.mean(), rel=1e-6)
    assert model.spread == pytest.approx(pairs.std(), rel=1e-6)
    features = model(batch, None).numpy()
    for row in range(40):
        target = batch["row"][batch["target"][row]]
        expected = np.zeros((2, 6))
        for slot in range(6):
            clicked = batch["row"][batch["history"][row, slot]]
            if batch["mask"][row, slot] and found[target] and found[clicked]:
                expected[:, slot] = (unit[target] @ unit[clicked] - pairs.mean()) / pairs.std(), 1
        scores, known = expected
        some = known.any()
        ends = [scores[known > 0].mean(), scores[known > 0].max(), 1] if some else [0, 0, 0]
        np.testing.assert_allclose(features[row], [*scores, *known, *ends], atol=1e-5)


def test_an_item_without_a_vector_gets_the_learned_one_not_zeros(data, batch, small_world):
    model = built(data, without(small_world.table, 3)).images
    with torch.no_grad():
        model.embed.no_image.fill_(5.0)
        seen = {}
        model.pool.forward = lambda behaviours, mask, ad, ad_ids: seen.update(ad=ad, past=behaviours) or ad
        model(batch, None)
    missing = batch["row"][batch["target"]] < 3
    assert missing.any() and (~missing).any()
    assert (seen["ad"][missing] == 5).all() and not (seen["ad"][~missing] == 5).all(dim=1).any()
    clicked = batch["row"][batch["history"]]
    assert (seen["past"][(clicked < 3) & batch["mask"]] == 5).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_a_table_does_not_matter(data, batch, small_world, form, factor):
    scaled = EmbeddingTable(small_world.table.ids, small_world.table.vectors * np.float32(factor))
    ours, theirs = built(data, small_world.table, form=form)(batch), built(data, scaled, form=form)(batch)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shown", [True, False])
def test_images_of_clicked_items_reach_the_click_unless_they_are_off(data, batch, small_world, shown):
    model = built(data, small_world.table, behaviour_images=shown)
    before = model(batch)
    row = next(
        row
        for row, (target, mask) in enumerate(zip(batch["target"], batch["mask"], strict=True))
        if mask.any() and target not in batch["history"][row][mask]
    )
    with torch.no_grad():
        others = torch.ones(len(small_world.table.ids), dtype=torch.bool)
        others[batch["row"][batch["target"][row]]] = False
        model.images.embed.features.vectors[others] += 1.0
    assert bool((model(batch)[row] - before[row]).abs() > 1e-6) == shown


@pytest.mark.parametrize("switches", [{"ad_image": False}, {"aggregator": "sum"}, {"aggregator": "concat"}])
def test_switches_decide_what_reaches_the_click(data, batch, small_world, switches):
    model = built(data, small_world.table, **switches)
    before = model(batch)
    lone = ~batch["mask"].any(dim=1)
    with torch.no_grad():
        model.images.embed.features.vectors[batch["row"][batch["target"]]] += 1.0
    changed = (model(batch) - before).abs() > 1e-6
    if switches.get("ad_image") is False:
        assert not changed[lone].any() and changed.any()
    else:
        assert changed.all()


def test_wrong_settings_are_named(data, small_world):
    with pytest.raises(UserError, match="unknown form 'tensor'; choose one of"):
        TrainingSettings(image=ImageSettings(form="tensor"))
    with pytest.raises(UserError, match="unknown aggregator 'mean'; choose one of"):
        TrainingSettings(image=ImageSettings(aggregator="mean"))
    with pytest.raises(UserError, match="unknown model 'din2'; choose one of"):
        TrainingSettings(model=ModelSettings(name="din2"))
    with pytest.raises(UserError, match="both off"):
        ImageSettings(ad_image=False, behaviour_images=False)
    with pytest.raises(UserError, match="another dataset"):
        join_table(EmbeddingTable(["x"], np.ones((1, 2), dtype=np.float32)), data)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_from_ids(data, name):
    every = np.arange(len(data.click))
    scenes = {"scene": FIRST_KNOWN + every % 2, "sizes": {**data.sizes, "scene": FIRST_KNOWN + 2}}
    data = replace(data, conversion=data.click * (every % 3 == 0), **scenes)
    settings = TrainingSettings(data.settings, ModelSettings(name), optim=OptimSettings(batch_size=64, epochs=4))
    result = fit(data, None, settings, seed=0)
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in ("esmm", "esmm_transfer", "scene_networks", "star")]
)
@pytest.mark.parametrize("aggregator", ["sum", "max", "concat", "attentive"])
def test_what_a_context_shares_changes_no_score(data, small_world, name, aggregator):
    model = built(data, small_world.table, name, aggregator=aggregator).eval()
    with torch.inference_mode():
        rows = data.rows["test"][:40]
        together = model({key: torch.from_numpy(values) for key, values in data.batch(rows).items()})
        alone = [
            model({key: torch.from_numpy(values) for key, values in data.batch(rows[place : place + 1]).items()})
            for place in range(len(rows))
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_what_a_context_shares_is_computed_once(data, small_world):
    model, seen = built(data, small_world.table, "dqm"), []
    model.user.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    rows = data.rows["test"][:40]
    batch = {key: torch.from_numpy(values) for key, values in data.batch(rows).items()}
    model(batch)
    assert seen == [len(batch["first"])] and seen[0] < len(rows)


def test_training_by_context_shows_each_impression_once_with_its_context(data):
    from downstream.training.epochs import _order

    order = _order(data, True, np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.sort(data.rows["train"]))
    context = data.contexts(order)
    assert (np.diff(context) != 0).sum() + 1 == len(np.unique(context))
    assert not np.array_equal(order, _order(data, True, np.random.default_rng(1)))
