import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.reconstruction import reconstruct


def by_hand(target, history, present, temperature):
    """The formula in float64, one target at a time."""
    out = torch.zeros(*target.shape, dtype=torch.float64)
    for row in range(target.shape[0]):
        kept = [k for k in range(history.shape[1]) if present[row, k]]
        for slot in range(target.shape[1]):
            weights = [
                math.exp(float(target[row, slot].double() @ history[row, k].double()) / temperature) for k in kept
            ]
            for weight, k in zip(weights, kept, strict=True):
                out[row, slot] += weight / sum(weights) * history[row, k].double()
    return out


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    target = F.normalize(torch.randn(3, 4, 8, generator=generator), dim=-1)
    history = F.normalize(torch.randn(3, 5, 8, generator=generator), dim=-1)
    present = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()
    return target, history, present


def test_equals_the_formula(tensors):
    reconstructed, attention = reconstruct(*tensors, 0.3)
    torch.testing.assert_close(reconstructed.double(), by_hand(*tensors, 0.3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention.sum(-1), torch.tensor([[1.0] * 4, [1.0] * 4, [0.0] * 4]))


def test_padding_is_never_attended_to(tensors):
    target, history, present = tensors
    before, _ = reconstruct(target, history, present, 0.3)
    after, _ = reconstruct(target, torch.where(present[..., None], history, torch.tensor(99.0)), present, 0.3)
    torch.testing.assert_close(before, after)


def test_empty_history_has_a_finite_gradient(tensors):
    target, history, present = tensors
    history.requires_grad_()
    reconstruct(target, history, present, 0.3)[0].square().sum().backward()
    assert torch.isfinite(history.grad).all()
    assert (history.grad[2] == 0).all()
