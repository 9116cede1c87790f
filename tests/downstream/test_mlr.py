"""LS-PLM against scikit-learn, autograd and plain proximal gradient descent; MLR against a loop."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from downstream.data.codes import PADDING
from downstream.data.ctr_data import load_ctr_data
from downstream.models.build import build_model
from downstream.models.mlr import MLR
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.metrics import auc
from downstream.training.fit import fit
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings
from tests.benchmarks.lsplm_solver import (
    Design,
    direction,
    log_probabilities,
    loss_and_gradient,
    minimise,
    penalty,
    sparsity,
)


def drawn(rows=300, requests=40, common=8, own=12, seed=0):
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(requests, size=rows))
    parts = [rng.normal(size=(count, size)) * (rng.random((count, size)) < 0.4) for count, size in
             ((requests, common), (rows, own))]  # fmt: skip
    design = Design(csr_matrix(parts[0]), csr_matrix(parts[1]), group)
    dense = np.concatenate([parts[0][group], parts[1]], axis=1)
    click = (rng.random(rows) < 1 / (1 + np.exp(-2 * dense[:, 0] * dense[:, -1] - dense[:, 1]))).astype(float)
    return design, dense, click, rng


def test_the_common_feature_trick_is_the_plain_product():
    design, dense, _, rng = drawn()
    theta, values = rng.normal(size=(20, 6)), rng.normal(size=(300, 6))
    np.testing.assert_allclose(design.product(theta), dense @ theta, atol=1e-12)
    np.testing.assert_allclose(design.transposed_product(values), dense.T @ values, atol=1e-12)


def test_loss_and_gradient_equal_autograd():
    design, dense, click, rng = drawn()
    theta = rng.normal(size=(20, 8))
    weights = torch.tensor(theta, requires_grad=True)
    gate, expert = (torch.from_numpy(dense) @ weights).chunk(2, dim=1)
    p = (gate.softmax(dim=1) * expert.sigmoid()).sum(dim=1)
    expected = torch.nn.functional.binary_cross_entropy(p, torch.from_numpy(click), reduction="sum")
    expected.backward()
    loss, gradient = loss_and_gradient(theta, design, click)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, weights.grad.numpy(), atol=1e-10)


def test_one_region_is_scikit_learns_sparse_logistic_regression():
    design, dense, click, _ = drawn()
    theta, objective = minimise(np.zeros((20, 2)), design, click, l1=4.0, l21=0.0, steps=500, tolerance=1e-12)
    expected = LogisticRegression(l1_ratio=1.0, C=0.25, solver="saga", fit_intercept=False, tol=1e-10, max_iter=20_000)
    expected.fit(dense, click)
    np.testing.assert_allclose(theta[:, 1], expected.coef_[0], atol=1e-4)
    assert (theta[:, 0] == 0).all() and np.array_equal(theta[:, 1] == 0, expected.coef_[0] == 0)
    assert objective == sorted(objective, reverse=True)


def proximal_descent(theta, design, click, l1, l21, rate, steps):
    """The textbook method, with a small fixed step."""
    for _ in range(steps):
        moved = theta - rate * loss_and_gradient(theta, design, click)[1]
        moved = np.sign(moved) * np.maximum(np.abs(moved) - rate * l1, 0)
        norm = np.linalg.norm(moved, axis=1, keepdims=True)
        theta = moved * np.maximum(1 - rate * l21 / np.maximum(norm, 1e-300), 0)
    return theta


def value(theta, design, click, l1, l21):
    return loss_and_gradient(theta, design, click)[0] + penalty(theta, l1, l21)


PENALTIES = pytest.mark.parametrize("l1, l21", [(4.0, 0.0), (0.0, 6.0), (2.0, 4.0)])


@PENALTIES
def test_one_region_reaches_the_objective_of_tiny_proximal_steps(l1, l21):
    design, _, click, _ = drawn()
    ours, objective = minimise(np.zeros((20, 2)), design, click, l1, l21, tolerance=1e-13)
    theirs = proximal_descent(np.zeros((20, 2)), design, click, l1, l21, rate=0.02, steps=800)
    assert objective[-1] == pytest.approx(value(theirs, design, click, l1, l21), rel=1e-7)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.array_equal(ours == 0, theirs == 0) and 0.2 < sparsity(ours)["weights"] < 1


@PENALTIES
def test_several_regions_stop_where_tiny_proximal_steps_do(l1, l21):
    """With regions f is not convex and two methods end in two minima; each has to accept the other's."""
    design, _, click, rng = drawn()
    ours, objective = minimise(0.1 * rng.normal(size=(20, 6)), design, click, l1, l21, tolerance=1e-13)
    # Where a row shrinks to rounding error, the direction is that of a row beside zero.
    settled = np.where(np.linalg.norm(ours, axis=1, keepdims=True) < 1e-6, 0.0, ours)
    assert np.abs(direction(settled, loss_and_gradient(settled, design, click)[1], l1, l21)).max() < 1e-2
    further = value(proximal_descent(ours, design, click, l1, l21, rate=0.01, steps=100), design, click, l1, l21)
    assert further == pytest.approx(objective[-1], rel=1e-8)
    theirs = proximal_descent(0.1 * rng.normal(size=(20, 6)), design, click, l1, l21, rate=0.02, steps=1200)
    reached = value(theirs, design, click, l1, l21)
    assert minimise(theirs, design, click, l1, l21)[1][-1] == pytest.approx(reached, rel=1e-4)
    assert objective[-1] == pytest.approx(reached, rel=0.05)


def test_the_direction_is_the_steepest_of_many():
    """The directional derivative of f, from its definition, is lowest along d among directions of its length."""
    design, _, click, rng = drawn()
    theta = rng.normal(size=(20, 4)) * (rng.random((20, 4)) < 0.5)
    theta[:5] = 0
    gradient = loss_and_gradient(theta, design, click)[1]
    d = direction(theta, gradient, 3.0, 5.0)

    def derivative(along):
        alive = np.linalg.norm(theta, axis=1) > 0
        smooth = (gradient * along).sum()
        l1 = np.where(theta != 0, np.sign(theta) * along, np.abs(along)).sum()
        norms = np.linalg.norm(theta, axis=1)
        rows = np.where(alive, (theta * along).sum(axis=1) / np.where(alive, norms, 1), np.linalg.norm(along, axis=1))
        return smooth + 3.0 * l1 + 5.0 * rows.sum()

    best = derivative(d)
    assert best < 0
    for scale in (0.01, 0.1, 1.0, 10.0):
        for _ in range(50):
            other = d + scale * rng.normal(size=d.shape)
            assert derivative(other * np.linalg.norm(d) / np.linalg.norm(other)) > best


def test_regions_fit_what_a_line_cannot():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(800, 2))
    click = ((x[:, 0] > 0) != (x[:, 1] > 0)).astype(float)  # XOR
    dense = np.column_stack([x, np.ones(800)])
    design = Design(csr_matrix((1, 0)), csr_matrix(dense), np.zeros(800, dtype=int))
    best = max(
        auc(click, log_probabilities(design.product(minimise(start, design, click, 0.01, 0.01)[0]))[0])
        for start in (rng.normal(size=(3, 24)) for _ in range(2))
    )
    line = LogisticRegression().fit(x, click)
    assert best > 0.99
    assert auc(click, line.decision_function(x)) < 0.6


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


def test_the_model_equals_a_loop(data):
    torch.manual_seed(0)
    model = build_model(data, None, ModelSettings("mlr"), ImageSettings()).double()
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.1 * torch.randn_like(part))
        model.ids["words"].weight[PADDING] = 0.0
    batch = {name: torch.from_numpy(values) for name, values in data.batch(data.rows["test"][:30]).items()}
    weights = {name: embedding.weight.detach().numpy() for name, embedding in model.ids.items()}

    def theta(place, half):
        words = [weights["words"][code] for code in batch["words"][place] if code]
        own = sum(weights[name][batch[name][place]] for name in ("item", "category"))
        return (own + (np.mean(words, axis=0) if words else 0.0)).reshape(2, 24)[half]

    logits = model(batch)
    for row in range(30):
        clicked = [place for place, kept in zip(batch["history"][row], batch["mask"][row], strict=True) if kept]
        z = theta(batch["target"][row], 0) + weights["user"][batch["user"][row]][:24] + model.bias.detach().numpy()
        z = z + (np.mean([theta(place, 1) for place in clicked], axis=0) if clicked else 0.0)
        gate = np.exp(z[:12]) / np.exp(z[:12]).sum()
        p = (gate / (1 + np.exp(-z[12:]))).sum()
        assert logits[row].item() == pytest.approx(np.log(p / (1 - p)), abs=1e-9)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["click"].double())
    assert model.loss(batch).item() == pytest.approx(expected.item(), abs=1e-9)


def test_penalties_make_zeros_and_more_of_them_more(data):
    found = []
    for l1 in (0.0, 1.0):
        settings = ModelSettings("mlr", mlr=MLR.Settings(l1=l1, l21=l1))
        result = fit(data, None, TrainingSettings(data.settings, settings, optim=OptimSettings(batch_size=64)), 0)
        model = build_model(data, None, settings, ImageSettings())
        model.load_state_dict(result.state)
        weights = torch.cat([embedding.weight.flatten() for embedding in model.ids.values()])
        found.append(float((weights == 0).float().mean()))
    assert found[0] < 0.1 and found[1] > 0.3
