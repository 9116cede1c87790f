import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.objectives.parts.losses import global_mean, info_nce, triplet, within_page


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


def test_a_weight_on_a_candidate_counts_it_so_often(arguments):
    """Weight 2 is the candidate twice; weight 0 is the candidate left out."""
    weights = torch.tensor([1.0, 1, 1, 2, 1, 1])
    arguments["query_kept"] = torch.tensor([1, 0, 1, 0, 0, 0]).bool()
    twice = {name: value for name, value in arguments.items() if name != "temperature"}
    for name in ("candidate", "candidate_item", "candidate_kept"):
        twice[name] = torch.cat([arguments[name], arguments[name][3:4]])
    expected = info_nce(**twice, temperature=0.05)
    torch.testing.assert_close(info_nce(**arguments, bias=weights.log()[None]).loss, expected.loss)
    left_out = info_nce(**arguments, bias=torch.tensor([0, 0, 0, float("-inf"), 0, 0])[None])
    arguments["candidate_kept"][3] = False
    torch.testing.assert_close(left_out, info_nce(**arguments))


def test_within_page_is_cross_entropy_over_the_clicked_and_the_unclicked():
    score = torch.tensor([[0.3, -0.2, 0.9, 0.1], [0.5, 0.1, 0.0, 0.0]])
    positive = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    negative = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]]).bool()  # the second page view has nothing to rank below
    loss, chance = within_page(score, positive, negative, 0.1)
    expected = [
        -math.log(math.exp(s / 0.1) / (math.exp(s / 0.1) + math.exp(-0.2 / 0.1) + math.exp(0.1 / 0.1)))
        for s in (0.3, 0.9)
    ]
    assert float(loss) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert float(chance) == pytest.approx(math.log(3), rel=1e-6)


def test_triplet_equals_the_formula():
    generator = torch.Generator().manual_seed(4)
    anchor, near, far = (torch.randn(5, 6, generator=generator) for _ in range(3))
    kept = torch.tensor([1, 1, 0, 1, 1]).bool()
    cosines = [[float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(anchor, o, strict=True)] for o in (near, far)]
    values = [max(0.0, 0.3 - n + f) for n, f in zip(*cosines, strict=True)]
    expected = sum(value for value, counts in zip(values, kept, strict=True) if counts) / 4
    assert float(triplet(anchor, near, far, kept=kept, margin=0.3).loss) == pytest.approx(expected, rel=1e-5)
