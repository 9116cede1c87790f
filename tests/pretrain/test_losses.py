import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.losses import global_mean, info_nce
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Objective


def by_hand(query, query_item, query_kept, candidate, candidate_item, candidate_kept, positive, temperature):
    """InfoNCE in float64, one query at a time."""
    values = []
    for b in range(len(query)):
        if not query_kept[b]:
            continue
        cosines = [float(F.cosine_similarity(query[b].double(), c.double(), dim=0)) for c in candidate]
        own = positive[b].item()
        rivals = [
            a for a in range(len(candidate)) if a == own or (candidate_kept[a] and candidate_item[a] != query_item[b])
        ]
        denominator = sum(math.exp(cosines[a] / temperature) for a in rivals)
        values.append(-math.log(math.exp(cosines[own] / temperature) / denominator))
    return sum(values) / len(values)


@pytest.fixture
def arguments():
    generator = torch.Generator().manual_seed(1)
    item = torch.tensor([3, 1, 3, 2, 5, 1])
    kept = torch.tensor([1, 1, 1, 1, 0, 1]).bool()
    return {
        "query": torch.randn(6, 7, generator=generator),
        "query_item": item,
        "query_kept": torch.tensor([1, 0, 1, 1, 0, 1]).bool(),
        "candidate": torch.randn(6, 7, generator=generator),
        "candidate_item": item,
        "candidate_kept": kept,
        "positive": torch.arange(6),
        "temperature": 0.05,
    }


def test_equals_the_formula(arguments):
    assert float(info_nce(**arguments).loss) == pytest.approx(by_hand(**arguments), rel=1e-5)


def test_duplicate_items_are_no_negatives(arguments):
    before = info_nce(**arguments).loss
    arguments["candidate"][2] = -arguments["candidate"][2]  # item 3 again, and only row 0's duplicate changes
    arguments["query_kept"] = torch.tensor([1, 0, 0, 0, 0, 0]).bool()
    first = info_nce(**arguments).loss
    arguments["candidate"][2] *= -5
    torch.testing.assert_close(first, info_nce(**arguments).loss)
    assert not torch.isclose(before, first)


def test_chance_is_the_loss_of_embeddings_that_know_nothing(arguments):
    arguments["query"] = torch.ones(6, 7)
    arguments["candidate"] = torch.ones(6, 7)
    loss, chance = info_nce(**arguments)
    torch.testing.assert_close(loss, chance)


def test_no_kept_query_is_a_zero_loss(arguments):
    arguments["query_kept"] = torch.zeros(6).bool()
    arguments["query"].requires_grad_()
    loss = info_nce(**arguments).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(arguments["query"].grad).all()


def test_global_mean_counts_kept_entries_only():
    values = torch.tensor([1.0, float("inf"), 3.0])
    assert float(global_mean(values, torch.tensor([True, False, True]))) == 2.0


def courier_by_hand(unit, batch, settings):
    """L_pv and L_ucs straight from the paper's text, in float64: loops over rows, slots and candidates."""

    def reconstruct(target, clicks):
        weights = [math.exp(float(target @ click) / settings.attention_temperature) for click in clicks]
        return sum(w * click for w, click in zip(weights, clicks, strict=True)) / sum(weights)

    def retrieval(targets):  # (row, index, positive, clicks before it)
        values = []
        for _, own, positive, clicks in targets:
            if not positive or not clicks:
                continue
            rebuilt = reconstruct(unit[own], [unit[k] for k in clicks])
            rebuilt = rebuilt / rebuilt.norm()
            other = [index for _, index, _, _ in targets if batch["image_item"][index] != batch["image_item"][own]]
            scores = [float(unit[index] @ rebuilt) / settings.temperature for index in [own, *other]]
            values.append(-scores[0] + math.log(sum(math.exp(score) for score in scores)))
        return sum(values) / len(values)

    rows = range(len(batch["history"]))
    clicks = [[int(k) for k in batch["history"][row] if k >= 0] for row in rows]
    page = [
        (row, int(index), bool(click), clicks[row])
        for row in rows
        for index, click in zip(batch["page"][row], batch["click"][row], strict=True)
        if index >= 0
    ]
    latest = [(row, clicks[row][-1], True, clicks[row][:-1]) for row in rows if clicks[row]]
    return retrieval(page), retrieval(latest)


def test_courier_equals_the_paper():
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(6, 8, generator=generator)
    batch = {
        "image_item": torch.tensor([10, 11, 12, 13, 14, 15]),
        "history": torch.tensor([[-1, 0, 1, 2], [3, 1, 4, 5], [-1, -1, -1, 2], [-1, -1, -1, -1]]),
        "page": torch.tensor([[3, 4, -1], [0, 2, 5], [1, 0, 4], [5, 3, -1]]),
        "click": torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 0]]),
    }
    settings = Objective(temperature=0.05, attention_temperature=0.1)
    terms = OBJECTIVES["courier"].terms(embeddings, batch, settings)
    pv, ucs = courier_by_hand(F.normalize(embeddings.double(), dim=-1), batch, settings)
    assert float(terms["pv_loss"].loss) == pytest.approx(pv, rel=1e-5)
    assert float(terms["ucs_loss"].loss) == pytest.approx(ucs, rel=1e-5)


def test_simclr_equals_cross_entropy_over_the_other_views():
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(8, 5, generator=generator)
    batch = {"image_item": torch.tensor([4, 7, 1, 2, 4, 7, 1, 2])}
    loss = OBJECTIVES["simclr"].terms(embeddings, batch, Objective(temperature=0.2))["simclr_loss"].loss
    unit = F.normalize(embeddings.double(), dim=-1)
    logits = (unit @ unit.T / 0.2).fill_diagonal_(float("-inf"))
    expected = F.cross_entropy(logits, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
