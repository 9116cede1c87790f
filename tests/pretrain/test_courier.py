"""COURIER's terms and settings against the formulas, in float64, one target at a time."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from data_tools.common.cli import UserError
from pretrain.data.records import log_shares
from pretrain.encoder.image_encoder import build_encoder
from pretrain.objectives.base import Context
from pretrain.objectives.courier import Courier
from pretrain.settings import Encoder

ENCODER = SimpleNamespace(dimensions=8)
SHARPER = {"attention_temperature": 0.1}


def courier(data=None, encoder=ENCODER, **options):
    torch.manual_seed(0)
    return Courier(Courier.Settings(**options), Context(encoder, data))


@pytest.fixture
def embeddings():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def batch():
    return {
        "image_item": torch.tensor([10, 11, 12, 13, 14, 15]),
        "history": torch.tensor([[-1, 0, 1, 2], [3, 1, 4, 5], [-1, -1, -1, 2], [-1, -1, -1, -1]]),
        "fresh": torch.tensor([2, 3, 1, 0]),
        "page": torch.tensor([[3, 4, -1], [0, 2, 5], [1, 0, 4], [5, 3, -1]]),
        "click": torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 0]]),
    }


def by_hand(embeddings, batch, settings, shares=(None, None), memory=()):
    """L_pv, L_ucs and the ranking within page views, straight from the formulas."""
    unit = F.normalize(embeddings.double(), dim=-1)
    tau = settings.temperature

    def rebuild(target, clicks):
        if settings.reconstruction == "mean":
            return sum(clicks) / len(clicks)
        weights = [math.exp(float(target @ click) / settings.attention_temperature) for click in clicks]
        return sum(w * click for w, click in zip(weights, clicks, strict=True)) / sum(weights)

    def cosine(own, clicks):
        rebuilt = rebuild(unit[own], [unit[k] for k in clicks])
        return unit @ (rebuilt / rebuilt.norm())

    def retrieval(targets, share, siblings=True, memory=()):  # (row, index, clicked, clicks before it)
        values = []
        for row, own, positive, clicks in targets:
            if not positive or not clicks:
                continue
            found = cosine(own, clicks)
            rebuilt = rebuild(unit[own], [unit[k] for k in clicks])

            def logit(index, found=found):
                popular = settings.log_q * float(share[batch["image_item"][index]]) if settings.log_q else 0
                return float(found[index]) / tau - popular

            denominator = math.exp(logit(own))
            for other_row, other, clicked, _ in targets:
                if other == own or (not clicked and not settings.unclicked_negatives):
                    continue
                if other_row == row and not siblings:
                    continue
                weight = settings.page_negative_weight if other_row == row and not clicked else 1
                denominator += weight * math.exp(logit(other))
            for item, key in memory:
                if item != batch["image_item"][own]:
                    denominator += math.exp(float(F.cosine_similarity(key.double(), rebuilt, dim=0)) / tau)
            several = siblings and settings.page_positives
            found_too = [o for r, o, c, _ in targets if several and r == row and c and o != own]
            logits = [logit(index) for index in (own, *found_too)]
            values.append(
                math.log(denominator) - sum(logits) / len(logits) if settings.contrast else -float(found[own])
            )
        return sum(values) / len(values)

    def ranking(targets):
        values = []
        for row, own, positive, clicks in targets:
            rivals = [other for number, other, clicked, _ in targets if number == row and not clicked]
            if positive and clicks and rivals:
                scores = [float(cosine(index, clicks)[index]) / tau for index in (own, *rivals)]
                values.append(math.log(sum(map(math.exp, scores))) - scores[0])
        return sum(values) / len(values)

    rows = range(len(batch["history"]))
    clicks = [[int(k) for k in batch["history"][row] if k >= 0] for row in rows]
    page = [
        (row, int(index), bool(click), clicks[row])
        for row in rows
        for index, click in zip(batch["page"][row], batch["click"][row], strict=True)
        if index >= 0
    ]
    chosen = [
        (row, clicks[row][place], True, clicks[row][:place])
        for row in rows
        for place in range(len(clicks[row]) - int(batch["fresh"][row]), len(clicks[row]))
    ]
    return {
        "pv_loss": settings.pv_weight * retrieval(page, shares[0], memory=memory),
        "ucs_loss": settings.ucs_weight * retrieval(chosen, shares[1], siblings=False),
        "page_loss": settings.page_weight * ranking(page),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reconstruction": "mean"},
        {"unclicked_negatives": False},
        {"page_negative_weight": 4.0},
        {"page_negative_weight": 0.0},
        {"page_positives": True},
        {"page_weight": 0.5},
        {"contrast": False},
        {"temperature": 0.2, "learn_temperature": True},
        {"pv_weight": 2.0, "ucs_weight": 0.5},
    ],
    ids=str,
)
def test_equals_the_formulas(settings, embeddings, batch):
    module = courier(**SHARPER, **settings)
    expected = by_hand(embeddings, batch, module.options)
    found = module(embeddings, batch)
    assert {"pv_loss", "ucs_loss"} <= found.keys()
    for name, term in found.items():
        assert float(term.loss.detach()) == pytest.approx(expected[name], rel=1e-5)


def test_popular_items_are_corrected_for(embeddings, batch, tiny_world):
    data = str(tiny_world / "shards")
    module = courier(data, log_q=0.7, **SHARPER)
    expected = by_hand(embeddings, batch, module.options, log_shares(data, history=30, slots=10))
    for name, term in module(embeddings, batch).items():
        assert float(term.loss) == pytest.approx(expected[name], rel=1e-5, abs=1e-6)  # logits reach 20, losses do not
    without = by_hand(embeddings, batch, Courier.Settings(**SHARPER))
    assert expected["pv_loss"] != pytest.approx(without["pv_loss"], rel=1e-3)


def test_remembered_items_are_negatives_of_page_views(embeddings, batch):
    encoder = build_encoder(Encoder(dimensions=8, image_size=32))
    batch["images"] = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    module = courier(encoder=encoder, queue=5, momentum=0.9, **SHARPER)
    module.memory.key[:2], module.memory.item[:2] = F.normalize(torch.randn(2, 8), dim=-1), torch.tensor([12, 99])
    memory = list(zip([12, 99], module.memory.key[:2].clone(), strict=True))
    expected = by_hand(embeddings, batch, module.options, memory=memory)
    found = module(embeddings, batch)
    assert {name: float(term.loss) for name, term in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-5
    )
    assert expected["pv_loss"] > by_hand(embeddings, batch, module.options)["pv_loss"]
    assert module.memory.item.tolist() == [13, 14, 10, 12, 15]  # the newest page views come first
    keys = F.normalize(copy.deepcopy(encoder).eval()(batch["images"][[3, 4, 0, 2, 5]]), dim=-1)
    torch.testing.assert_close(module.memory.key, keys.detach())


def test_a_term_of_weight_zero_is_left_out(embeddings, batch):
    assert courier(ucs_weight=0.0)(embeddings, batch).keys() == {"pv_loss"}


def test_matryoshka_is_the_mean_over_sizes(embeddings, batch):
    found = courier(matryoshka=[2, 5], page_weight=1.0, **SHARPER)(embeddings, batch)
    for name, term in found.items():
        alone = Courier.Settings(page_weight=1.0, **SHARPER)
        parts = [by_hand(embeddings[:, :size], batch, alone)[name] for size in (2, 5, 8)]
        assert float(term.loss) == pytest.approx(sum(parts) / 3, rel=1e-5)


def test_the_projection_is_between_embedding_and_loss(embeddings, batch):
    module = courier(projection=5, **SHARPER)
    expected = by_hand(module.projection(embeddings).detach(), batch, module.options)
    assert float(module(embeddings, batch)["pv_loss"].loss.detach()) == pytest.approx(expected["pv_loss"], rel=1e-5)


def test_click_prediction_is_the_cross_entropy_of_the_small_network(embeddings, batch):
    module = courier(ctr_weight=2.0, reconstruction="mean").double()
    unit = F.normalize(embeddings.double(), dim=-1)
    values = []
    for row in range(3):  # the last row has no history
        taste = unit[[int(k) for k in batch["history"][row] if k >= 0]].mean(0)
        for index, click in zip(batch["page"][row], batch["click"][row], strict=True):
            if index >= 0:
                share = float(torch.sigmoid(module.click(torch.cat([taste, unit[index]]))).detach())
                values.append(-math.log(share if click else 1 - share))
    found = module.float()(embeddings, batch)["ctr_loss"].loss
    assert float(found.detach()) == pytest.approx(2 * sum(values) / len(values), rel=1e-5)


def test_a_learned_temperature_has_a_gradient_and_a_floor(embeddings, batch):
    module = courier(learn_temperature=True)
    module(embeddings, batch)["pv_loss"].loss.backward()
    assert module.log_temperature.grad.abs() > 0
    module.log_temperature.data.fill_(-20.0)
    assert float(module.temperature.detach()) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matryoshka": [8]}, "below the embedding's"),
        ({"matryoshka": [4], "projection": 4}, "one size only"),
        ({"reconstruction": "multihead", "heads": 3}, "does not divide"),
        ({"pv_weight": 0.0, "ucs_weight": 0.0}, "nothing to learn"),
        ({"queue": 8, "matryoshka": [4]}, "whole embeddings"),
        ({"queue": 8, "contrast": False}, "whose negatives they are"),
        ({"learn_temperature": True, "contrast": False}, "no temperature is used"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        courier(**settings)
