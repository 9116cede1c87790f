import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.objectives.parts.reconstruction import MultiHead, history_mean, reconstruct


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


def test_history_mean_is_the_same_for_every_target(tensors):
    _, history, present = tensors
    found = history_mean(history, present, 4)
    torch.testing.assert_close(found[1, 2], (history[1, 2] + history[1, 4]) / 2)
    assert torch.equal(found[1, 0], found[1, 3])
    assert (found[2] == 0).all()


def test_multi_head_equals_the_formula(tensors):
    target, history, present = tensors
    torch.manual_seed(0)
    module = MultiHead(8, 4)
    q, k, v, out = (layer.weight.double() for layer in (module.query, module.key, module.value, module.out))
    expected = torch.zeros(3, 4, 8, dtype=torch.float64)
    for row in range(2):  # the last row's history is empty
        clicks = history[row, present[row]].double()
        for slot in range(4):
            heads = []
            for head in range(4):
                part = slice(2 * head, 2 * head + 2)
                scores = (clicks @ k[part].T) @ (q[part] @ target[row, slot].double()) / math.sqrt(2)
                heads.append(scores.softmax(0) @ (clicks @ v[part].T))
            expected[row, slot] = out @ torch.cat(heads)
    torch.testing.assert_close(module(target, history, present).double(), expected, rtol=1e-5, atol=1e-6)
