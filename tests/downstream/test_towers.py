"""Two towers against loops; vectors computed once against the model's own scores; retrieval against brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.tables.table import read_table
from downstream import retrieval, train
from downstream.data.ctr_data import load_ctr_data
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.models.dssm import NEGATIVES, SMOOTHING, letter_trigrams, trigram_codes
from downstream.models.towers import catalogue_vectors
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.recall import nearest, recall
from downstream.studies.retrieval import retrieve, user_queries
from downstream.training.fit import fit
from downstream.training.saved_runs import load_run
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(tiny_world):
    return load_ctr_data(tiny_world / "dataset", DataSettings(history=6))


@pytest.fixture(scope="module")
def planted(tiny_world):
    return read_table(tiny_world / "planted")


@pytest.fixture
def batch(data):
    return {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:40]).items()}


def built(data, table, name):
    torch.manual_seed(0)
    return build_model(data, join_table(table, data) if table else None, ModelSettings(name), ImageSettings()).eval()


@pytest.mark.parametrize("name", ["dqm", "dssm"])
@pytest.mark.parametrize("images", [False, True])
def test_vectors_made_before_rank_as_the_model_does(data, planted, name, images):
    model = built(data, planted if images else None, name)
    rows = data.rows["test"][[5]].repeat(len(data.item_code))
    everything = np.arange(len(data.item_code))
    shown = data.with_impressions(rows, everything)
    with torch.inference_mode():
        logits = model({key: torch.from_numpy(values) for key, values in shown.batch(everything).items()}).numpy()
    scores = catalogue_vectors(model, data, everything, chunk=7) @ user_queries(model, data, rows[:1])[0]
    if name == "dssm":
        scores = scores * model.scale.item()
    np.testing.assert_allclose(logits - logits.mean(), scores - scores.mean(), rtol=1e-5, atol=1e-5)


def test_dqm_equals_a_loop(data, planted, batch):
    model = built(data, planted, "dqm").double()
    items, images = model.embed_items(batch), model.embed(batch["row"])
    logits = model(batch)
    for row in range(40):
        clicked = [place for place, kept in zip(batch["history"][row], batch["mask"][row], strict=True) if kept]
        ids = sum(items[place] for place in clicked) / max(len(clicked), 1) + torch.zeros_like(items[0])
        summed = sum(images[place] for place in clicked) + torch.zeros_like(images[0])
        user = model.user(torch.cat([model.ids["user"].weight[batch["user"][row]], ids, summed]))
        target = batch["target"][row]
        ad = model.ad(torch.cat([items[target], images[target]]))
        scene = model.scene(model.ids["scene"].weight[batch["scene"][row]])
        expected = user @ ad + scene @ ad + user @ scene + model.bias
        assert logits[row].item() == pytest.approx(expected.item(), abs=1e-9)


def test_letter_trigrams():
    assert letter_trigrams("Good go, a") == ["#go", "goo", "ood", "od#", "#go", "go#", "#a#"]


def test_trigrams_of_training_titles_alone_have_codes(data):
    codes, count = trigram_codes(data)
    items = data.dataset.items.to_dicts()
    texts = [letter_trigrams(f"{item['title']} {item['category']}") for item in items]
    known = {trigram for row in np.flatnonzero(data.warm) for trigram in texts[row]}
    assert count == len(known) + 1
    spelt = {}
    for text, own in zip(texts, codes, strict=True):
        own = own[own > 0]
        assert len(own) == sum(trigram in known for trigram in text)
        for trigram, code in zip([trigram for trigram in text if trigram in known], own, strict=True):
            assert spelt.setdefault(trigram, code) == code


def test_dssm_loss_is_the_softmax_over_one_positive_and_four_negatives(data, planted, batch):
    model = built(data, planted, "dssm").double()
    query, item = model._vectors(batch)
    cosines = (query @ item.T).detach().numpy()
    clicks = batch["click"].numpy()
    clicked, unclicked = np.flatnonzero(clicks == 1), np.flatnonzero(clicks == 0)
    torch.manual_seed(3)
    loss = model.loss({**batch, "click": batch["click"].double()}).item()
    torch.manual_seed(3)
    drawn = unclicked[torch.randint(len(unclicked), (len(clicked), NEGATIVES)).numpy()]
    losses = []
    for row, others in zip(clicked, drawn, strict=True):
        assert not clicks[others].any()
        scores = np.exp(SMOOTHING * np.array([cosines[row, row], *cosines[row, others]]))
        losses.append(-np.log(scores[0] / scores.sum()))
    probability = 1 / (1 + np.exp(-(model.scale.item() * np.diag(cosines) + model.shift.item())))
    entropy = -np.log(np.where(clicks == 1, probability, 1 - probability)).mean()
    assert loss == pytest.approx(np.mean(losses) + entropy, abs=1e-9)


def test_dssm_retrieves_by_what_is_planted(world):
    data = load_ctr_data(world.folder, DataSettings(history=10))
    data = replace(data, rows={name: rows[-3000:] for name, rows in data.rows.items()})
    settings = TrainingSettings(data.settings, ModelSettings("dssm"), optim=OptimSettings(lr=3e-3))
    rows = data.rows["test"][data.click[data.rows["test"]] == 1]
    found = {}
    for name, table in {"planted": world.table, "random": world.random}.items():
        model = built(data, table, "dssm")
        model.load_state_dict(fit(data, table, settings, 0).state)
        found[name] = retrieve(model, data, rows, (20,))["model"][20]
    assert found["planted"] > 1.5 * 20 / len(data.item_code)
    assert found["random"] < 1.3 * 20 / len(data.item_code)


def test_recall_equals_brute_force():
    rng = np.random.default_rng(0)
    query, catalogue = rng.normal(size=(50, 8)).astype("f4"), rng.normal(size=(300, 8)).astype("f4")
    wanted = rng.integers(300, size=50)
    best = np.argsort(-(query.astype("f8") @ catalogue.T.astype("f8")), axis=1)
    found = nearest(query, catalogue, 40)
    assert np.array_equal(found, best[:, :40])
    rank = (best == wanted[:, None]).argmax(axis=1)
    assert recall(found, wanted, (1, 10, 40)) == {k: pytest.approx((rank < k).mean()) for k in (1, 10, 40)}


def test_a_run_is_read_back_and_retrieval_is_written(data, tiny_world, tmp_path, monkeypatch):
    def command(main, *arguments):
        monkeypatch.setattr("sys.argv", ["program", *arguments])
        main()

    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    given = ["--dataset", str(tiny_world / "dataset"), "--data.history", "6", "--table", str(tiny_world / "planted")]
    command(train.main, *given, "--out", run, "--model.name", "dqm")
    model, again, settings = load_run(run)
    assert settings.model.name == "dqm" and again.settings == data.settings
    batch = {name: torch.from_numpy(values) for name, values in again.batch(again.rows["test"]).items()}
    scores = torch.sigmoid(model(batch)).detach().numpy()
    np.testing.assert_allclose(scores, np.load(f"{run}/test_scores.npy"), atol=1e-6)
    command(retrieval.main, "--run", run, "--k", "[5]", "--clicks", "50")
    assert (tmp_path / "run" / "retrieval.json").exists()
    command(train.main, *given, "--out", other, "--model.name", "embedding_mlp")
    with pytest.raises(UserError, match="not a model of two towers"):
        command(retrieval.main, "--run", other)


def test_towers_refuse_forms_of_pairs():
    with pytest.raises(UserError, match=r"'dqm' takes images in the form 'vector' only, and image\.form is 'simscore'"):
        TrainingSettings(model=ModelSettings("dqm"), image=ImageSettings(form="simscore"))
