"""DIN, Dice and the mini-batch aware L2 against their formulas in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from data_tools.common.cli import UserError
from downstream.data.codes import FIRST_KNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.layers.attention import ActivationUnit
from downstream.layers.blocks import Dice
from downstream.layers.prelu import PReLU
from downstream.models.build import build_model
from downstream.models.din import DIN
from downstream.settings import DataSettings, OptimSettings
from downstream.training.epochs import PenalisedLoss
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


def tensors(batch):
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def built(data, softmax=False, **settings):
    torch.manual_seed(0)
    return build_model(data, None, ModelSettings(**settings, din=DIN.Settings(softmax=softmax)), ImageSettings())


def plain_unit(unit, behaviours, mask, query):
    """The activation unit on every slot, padded ones too, as its formula reads."""
    v = query[:, None].expand_as(behaviours)
    pairs = torch.cat([behaviours, v, behaviours - v, behaviours * v], dim=-1)
    weights = unit.score(pairs.flatten(0, 1)).view(mask.shape)
    if unit.softmax:
        weights = torch.nan_to_num(torch.softmax(weights.masked_fill(~mask, -torch.inf), dim=1))
    return ((weights * mask)[..., None] * behaviours).sum(dim=1)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("shown", [0.6, 0.0])
@pytest.mark.parametrize(
    ("hidden", "rows", "slots"), [((5,), 7, 5), ((8, 4), 7, 5), ((8, 4), 900, 5), ((8, 4), 4, 9000)]
)
def test_the_activation_unit_equals_its_formula_and_gradient(softmax, shown, hidden, rows, slots):
    """900 rows, or 9,000 slots in a row, are more slots than the quick path takes in one piece."""
    torch.manual_seed(1)
    unit = ActivationUnit(3, hidden, softmax).double()
    mask = torch.rand(rows, slots) < shown
    mask[2:4] = False
    behaviours = torch.randn(rows, slots, 3, dtype=torch.float64, requires_grad=True)
    query = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    ours, plain = unit(behaviours, mask, query), plain_unit(unit, behaviours, mask, query)
    torch.testing.assert_close(ours, plain)
    assert (ours[2] == 0).all()
    wanted = [behaviours, query, *unit.parameters()]
    ahead = torch.randn_like(ours)
    ours, plain = (torch.autograd.grad(one, wanted, ahead) for one in (ours, plain))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_the_activation_unit_with_dice_equals_its_formula_once_trained():
    torch.manual_seed(1)
    unit = ActivationUnit(3, (8, 4), False, "dice").double()
    behaviours, query = torch.randn(7, 5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    mask = torch.rand(7, 5) < 0.6
    for _ in range(3):
        unit(behaviours, mask, query)
    unit.eval()
    torch.testing.assert_close(unit(behaviours, mask, query), plain_unit(unit, behaviours, mask, query))


@pytest.mark.parametrize("softmax", [False, True])
def test_din_equals_a_loop(data, softmax):
    batch = tensors(data.batch(data.rows["test"][:30]))
    model = built(data, name="din", softmax=softmax).double()
    with torch.no_grad():
        for embedding in model.ids.values():
            embedding.weight.mul_(100)
    items, user = model.embed_items(batch), model.ids["user"](batch["user"])
    logits = model(batch)
    for row in range(30):
        v = items[batch["target"][row]]
        clicked = [items[place] for place, kept in zip(batch["history"][row], batch["mask"][row], strict=True) if kept]
        scores = [model.interest.score(torch.cat([e, v, e - v, e * v])[None]).squeeze() for e in clicked]
        if softmax and scores:
            total = sum(math.exp(one.item()) for one in scores)
            scores = [math.exp(one.item()) / total for one in scores]
        interest = sum((score * e for score, e in zip(scores, clicked, strict=True)), torch.zeros_like(v))
        expected = model.mlp(torch.cat([user[row], v, interest])[None]).squeeze()
        assert logits[row].item() == pytest.approx(expected.item(), rel=1e-9)


def test_dice_equals_its_formula_and_keeps_averages():
    torch.manual_seed(0)
    dice = Dice(3).double()
    s = 5 + 2 * torch.randn(200, 3, dtype=torch.float64)
    p = 1 / (1 + torch.exp(-(s - s.mean(0)) / torch.sqrt(s.var(0, correction=0) + 1e-8)))
    torch.testing.assert_close(dice(s), p * s + (1 - p) * 0.25 * s)
    for _ in range(100):
        dice(s)
    averages = dice.eval()(s)
    torch.testing.assert_close(averages, p * s + (1 - p) * 0.25 * s, rtol=0.02, atol=0.02)
    dice.train()
    for rows in (0, 1):
        assert torch.isfinite(dice(s[:rows])).all() and torch.isfinite(dice.mean).all()


def test_the_l2_is_that_of_the_paper(data):
    model = built(data, name="din", l2=0.1)
    rows = data.rows["train"][50:90]
    batch = tensors(data.batch(rows))
    everything = data.batch(data.rows["train"])
    counts = {name: np.zeros(size) for name, size in data.sizes.items()}
    for row in range(len(everything["click"])):
        places = {everything["target"][row], *everything["history"][row][everything["mask"][row]]}
        counts["user"][everything["user"][row]] += 1
        for name in ("item", "category", "words"):
            for code in {int(code) for place in places for code in np.ravel(everything[name][place])}:
                counts[name][code] += 1
    expected, gradients = 0.0, {}
    for name, embedding in model.ids.items():
        weight = embedding.weight.detach().double().numpy()
        gradients[name] = np.zeros_like(weight)
        for code in {int(code) for code in np.ravel(batch[name])} - {0}:
            assert code >= FIRST_KNOWN
            expected += 0.5 * (weight[code] ** 2).sum() / counts[name][code]
            gradients[name][code] = weight[code] / counts[name][code]
    term = model.embedding_l2(batch)
    assert term.item() == pytest.approx(expected, rel=1e-5)
    term.backward()
    for name, embedding in model.ids.items():
        np.testing.assert_allclose(embedding.weight.grad.numpy(), gradients[name], rtol=1e-5, atol=1e-12)
    plain = built(data, name="din")
    assert (PenalisedLoss(model)(batch) - PenalisedLoss(plain)(batch)).item() == pytest.approx(0.1 * expected, rel=1e-2)


def test_a_masked_id_is_regularised_like_one_in_any_impression(data):
    model = built(data, name="embedding_mlp", l2=1.0)
    batch = tensors(data.batch(data.rows["train"][:20]))
    batch["user"] = torch.ones_like(batch["user"])
    model.embedding_l2(batch).backward()
    counts = data.occurrences()["user"]
    hidden = model.ids["user"]
    torch.testing.assert_close(hidden.weight.grad[1], hidden.weight.detach()[1] / float(counts.max()))


@pytest.mark.parametrize("name", ["din", "logistic", "embedding_mlp"])
@pytest.mark.parametrize("activation", ["prelu", "dice"])
def test_histories_may_all_be_empty(data, name, activation):
    rows = data.rows["train"][data.clicks_before[data.rows["train"]] == 0]
    assert len(rows) > 1
    batch = tensors(data.batch(rows))
    model = built(data, name=name, activation=activation)
    model.loss(batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.eval()(batch)).all()


def test_dice_and_l2_learn(data):
    settings = ModelSettings("din", activation="dice", l2=0.1, din=DIN.Settings(softmax=True))
    optim = OptimSettings(batch_size=64, epochs=3)
    result = fit(data, None, TrainingSettings(data.settings, settings, optim=optim), seed=0)
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]


def test_wrong_settings_are_named():
    for wrong in ({"l2": -1.0}, {"embedding": 0}):
        with pytest.raises(UserError, match="must be >"):
            ModelSettings("din", **wrong)
    with pytest.raises(UserError, match="attention is empty"):
        DIN.Settings(attention=())
    with pytest.raises(UserError, match="activation is 'relu'; choose one of prelu, dice"):
        ModelSettings("din", activation="relu")


def test_prelu_gives_what_torchs_does():
    torch.manual_seed(0)
    x, gradient = torch.randn(7, 3, 5, dtype=torch.float64), torch.randn(7, 3, 5, dtype=torch.float64)
    found = {}
    for name, module in {"ours": PReLU(), "torch": nn.PReLU()}.items():
        module.double().weight.data.fill_(-0.4)
        given = x.clone().requires_grad_()
        values = module(given)
        values.backward(gradient)
        found[name] = values.detach(), given.grad, module.weight.grad
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
