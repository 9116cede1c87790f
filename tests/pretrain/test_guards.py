import pytest
import torch
from torch.nn import functional as F

from pretrain.objectives.parts.guards import covariance, first_copies, koleo, variance


@pytest.fixture
def unit():
    return F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_koleo_is_the_mean_log_distance_of_nearest_neighbours(unit):
    nearest = torch.cdist(unit.double(), unit.double()).fill_diagonal_(9).min(1).values
    assert float(koleo(unit)) == pytest.approx(-float(nearest.log().mean()), rel=1e-4)


def test_variance_and_covariance_are_those_of_the_formulas(unit):
    matrix = torch.cov(2 * unit.double().T)  # sqrt(D) = 2
    short = [max(0.0, 1 - (float(matrix[d, d]) + 1e-4) ** 0.5) for d in range(4)]
    assert float(variance(unit)) == pytest.approx(sum(short) / 4, rel=1e-4)
    off = sum(float(matrix[a, b]) ** 2 for a in range(4) for b in range(4) if a != b)
    assert float(covariance(unit)) == pytest.approx(off / 4, rel=1e-4)


def test_the_guards_are_lower_for_spread_vectors_and_push_away_from_a_collapse(unit):
    generator = torch.Generator().manual_seed(1)
    close = torch.ones(9, 4) + 0.01 * torch.randn(9, 4, generator=generator)
    for guard in (koleo, variance):
        raw = close.clone().requires_grad_()
        loss = guard(F.normalize(raw, dim=-1))
        assert loss > guard(unit)
        loss.backward()
        moved = F.normalize(raw - 1e-3 * raw.grad / raw.grad.norm(), dim=-1)
        assert guard(moved) < loss


def test_copies_count_once():
    item, kept = torch.tensor([5, 5, 2, 7, 2, 5]), torch.tensor([0, 1, 1, 0, 1, 1]).bool()
    assert first_copies(item, kept).tolist() == [False, True, True, False, False, False]


def test_too_few_vectors_are_a_zero_with_a_gradient():
    alone = torch.ones(1, 4, requires_grad=True)
    for guard in (koleo, variance, covariance):
        guard(alone).backward()
    assert (alone.grad == 0).all()
