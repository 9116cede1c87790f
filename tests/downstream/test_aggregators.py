"""Aggregators against their formulas in plain float64 loops, and padding that never counts."""

import numpy as np
import pytest
import torch

from downstream.forms.aggregators import AGGREGATORS, ActivationUnit

B, H, D, Q = 6, 5, 4, 7


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    behaviours = torch.randn(B, H, D, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([0, 1, 2, 3, 5, 5])
    mask = torch.arange(H) < lengths[:, None]
    ad = torch.randn(B, D, generator=generator, dtype=torch.float64)
    ad_ids = torch.randn(B, Q, generator=generator, dtype=torch.float64)
    return behaviours, mask, ad, ad_ids


def made(name):
    torch.manual_seed(1)
    return AGGREGATORS[name](D, slots=H, query_size=Q).double()


def attended(unit: ActivationUnit, behaviours, mask, query):
    """DIN's activation unit, one behaviour at a time."""
    first, prelu, last = (
        {name: value.detach().numpy() for name, value in layer.named_parameters()} for layer in unit.score
    )
    pooled = np.zeros((B, D))
    for row in range(B):
        present = [behaviours[row, slot].numpy() for slot in range(H) if mask[row, slot]]
        if not present:
            continue
        v, scores = query[row].detach().numpy(), []
        for e in present:
            hidden = first["weight"] @ np.concatenate([e, v, e - v, e * v]) + first["bias"]
            hidden = np.where(hidden > 0, hidden, prelu["weight"] * hidden)
            scores.append((last["weight"] @ hidden + last["bias"]).item())
        weights = np.exp(scores) / np.exp(scores).sum()
        pooled[row] = sum(weight * e for weight, e in zip(weights, present, strict=True))
    return pooled


def test_pooling_without_weights(inputs):
    behaviours, mask, *_ = inputs
    kept = [behaviours[row][mask[row]].numpy() for row in range(B)]
    total = np.stack([own.sum(axis=0) for own in kept])
    largest = np.stack([own.max(axis=0) if len(own) else np.zeros(D) for own in kept])
    side_by_side = np.stack([np.pad(own, ((0, H - len(own)), (0, 0))).ravel() for own in kept])
    for name, expected in {"sum": total, "max": largest, "concat": side_by_side}.items():
        np.testing.assert_allclose(made(name)(*inputs).numpy(), expected, atol=1e-12)


def test_attentive_pooling(inputs):
    behaviours, mask, ad, _ = inputs
    pool = made("attentive")
    expected = attended(pool.by_image, behaviours, mask, ad)
    np.testing.assert_allclose(pool(*inputs).detach().numpy(), expected, atol=1e-12)


def test_multi_query_attentive_pooling_has_two_channels_of_its_own(inputs):
    behaviours, mask, ad, ad_ids = inputs
    pool = made("multi_query_attentive")
    by_image = attended(pool.by_image, behaviours, mask, ad)
    by_ids = attended(pool.by_ids, behaviours, mask, pool.ids_to_query(ad_ids))
    expected = np.concatenate([by_image, by_ids], axis=1)
    np.testing.assert_allclose(pool(*inputs).detach().numpy(), expected, atol=1e-12)
    assert not np.allclose(by_image, by_ids)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_padding_never_counts_and_gradients_are_finite(name, inputs):
    behaviours, mask, ad, ad_ids = inputs
    pool = made(name)
    changed = torch.where(mask[..., None], behaviours, 1e3)
    ours = behaviours.clone().requires_grad_()
    pooled = pool(ours, mask, ad, ad_ids)
    torch.testing.assert_close(pool(changed, mask, ad, ad_ids), pooled)
    assert pooled.shape == (B, pool.width)
    assert (pooled[0] == 0).all()  # the row without behaviours
    pooled.square().sum().backward()
    assert torch.isfinite(ours.grad).all() and (ours.grad[~mask] == 0).all()
    assert all(torch.isfinite(weight.grad).all() for weight in pool.parameters())
