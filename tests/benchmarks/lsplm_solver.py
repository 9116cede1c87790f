"""The objective of LS-PLM (MLR) and its sparse optimiser (arXiv 1704.05194), on scipy matrices.

    f(Theta) = sum over impressions of -log p(y | x) + lambda |Theta|_2,1 + beta |Theta|_1
    p(y = 1 | x) = sum_i softmax_i(u_i . x) sigmoid(w_i . x)

Theta is (d, 2 m): the row of a feature holds its weights u_1 .. u_m, w_1 .. w_m, and is a group of the 2,1 norm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, log_expit, log_softmax, logsumexp

MEMORY = 10  # of the L-BFGS


@dataclass(frozen=True)
class Design:
    """Features of impressions, in two parts: those shared by all impressions of a request, and the rest.

    The common-feature trick: the common part of a product is computed once for each request.

    Attributes
    ----------
    common : (G, c), one row a request
    own : (N, d - c), one row an impression
    group : int (N,), the request of each impression
    """

    common: csr_matrix
    own: csr_matrix
    group: np.ndarray

    @property
    def features(self) -> int:
        """d, those of the common part first."""
        return self.common.shape[1] + self.own.shape[1]

    def product(self, theta: np.ndarray) -> np.ndarray:
        """X Theta: (d, k) -> (N, k)."""
        shared = self.common.shape[1]
        return (self.common @ theta[:shared])[self.group] + self.own @ theta[shared:]

    def transposed_product(self, values: np.ndarray) -> np.ndarray:
        """X' V: (N, k) -> (d, k)."""
        each = np.arange(len(self.group) + 1)
        by_request = csr_matrix((np.ones(len(self.group)), self.group, each), (len(self.group), self.common.shape[0]))
        return np.concatenate([self.common.T @ (by_request.T @ values), self.own.T @ values])


def log_probabilities(product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(y = 1) and log p(y = 0), (N,) each, from X Theta (N, 2 m)."""
    gate, expert = np.split(product, 2, axis=1)
    gate = log_softmax(gate, axis=1)
    return logsumexp(gate + log_expit(expert), axis=1), logsumexp(gate + log_expit(-expert), axis=1)


def loss_and_gradient(theta: np.ndarray, design: Design, click: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of -log p(y | x), and its gradient (d, 2 m)."""
    gate, expert = np.split(design.product(theta), 2, axis=1)
    gate, sign = log_softmax(gate, axis=1), np.where(click == 1, 1.0, -1.0)[:, None]
    joint = gate + log_expit(sign * expert)
    log_p = logsumexp(joint, axis=1)
    region = np.exp(joint - log_p[:, None])  # of each region, given what happened
    slope = np.concatenate([np.exp(gate) - region, -region * (click[:, None] - expit(expert))], axis=1)
    return -float(log_p.sum()), design.transposed_product(slope)


def penalty(theta: np.ndarray, l1: float, l21: float) -> float:
    """lambda |Theta|_2,1 + beta |Theta|_1 with ``l21`` lambda and ``l1`` beta."""
    return l1 * float(np.abs(theta).sum()) + l21 * float(np.linalg.norm(theta, axis=1).sum())


def _shrink(values: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(values) * np.maximum(np.abs(values) - threshold, 0.0)


def direction(theta: np.ndarray, gradient: np.ndarray, l1: float, l21: float) -> np.ndarray:
    """The direction d in which f falls most (proposition 2 of the paper); zero exactly where f has no descent.

    With s = -grad - lambda Theta_ij / |Theta_i|: s - beta sign(Theta_ij) where Theta_ij is not 0, s shrunk by beta
    where only the row is not 0, and where the row is 0, v = -grad shrunk by beta, whose norm is shrunk by lambda.
    """
    norm = np.linalg.norm(theta, axis=1, keepdims=True)
    alive = norm > 0
    s = -gradient - l21 * theta / np.where(alive, norm, 1.0)
    in_row = np.where(theta != 0, s - l1 * np.sign(theta), _shrink(s, l1))
    v = _shrink(-gradient, l1)
    length = np.linalg.norm(v, axis=1, keepdims=True)
    return np.where(alive, in_row, v * np.maximum(length - l21, 0.0) / np.where(length > 0, length, 1.0))


def _newton(d: np.ndarray, pairs: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """L-BFGS's approximation of H d by the two-loop recursion."""
    q, kept = d.copy(), []
    for s, y in reversed(pairs):
        a = np.vdot(s, q) / np.vdot(s, y)
        q -= a * y
        kept.append(a)
    if pairs:
        s, y = pairs[-1]
        q *= np.vdot(s, y) / np.vdot(y, y)
    for (s, y), a in zip(pairs, reversed(kept), strict=True):
        q += (a - np.vdot(y, q) / np.vdot(s, y)) * s
    return q


def minimise(
    theta: np.ndarray,
    design: Design,
    click: np.ndarray,
    l1: float,
    l21: float,
    steps: int = 200,
    tolerance: float = 1e-8,
    each_step: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, list[float]]:
    """Algorithm 1 of the paper: d, L-BFGS, projection onto d's orthant, line search within Theta's orthant.

    Ends after ``steps``, or where f falls by less than ``tolerance`` of itself or no step is found.

    Returns
    -------
    theta : (d, 2 m), with exact zeros
    objective : f before the first and after each step
    """
    loss, gradient = loss_and_gradient(theta, design, click)
    objective = [loss + penalty(theta, l1, l21)]
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)
    d = direction(theta, gradient, l1, l21)
    for _ in range(steps):
        p = _newton(d, pairs)
        p = np.where(p * d > 0, p, 0.0)
        orthant = np.where(theta != 0, np.sign(theta), np.sign(d))
        rate = 1.0 if pairs else min(1.0, 1.0 / max(np.abs(d).sum(), 1e-12))
        for _ in range(40):
            moved = theta + rate * p
            moved = np.where(np.sign(moved) == orthant, moved, 0.0)
            loss, gradient = loss_and_gradient(moved, design, click)
            value = loss + penalty(moved, l1, l21)
            if value <= objective[-1] - 1e-4 * np.vdot(d, moved - theta):
                break
            rate *= 0.5
        else:
            if not pairs:
                break
            pairs.clear()  # the curvature is of another piece of f: continue from steepest descent
            continue
        step, before, d = moved - theta, d, direction(moved, gradient, l1, l21)
        if np.vdot(step, before - d) > 1e-12:
            pairs.append((step, before - d))
        theta = moved
        objective.append(value)
        each_step()
        if objective[-2] - value < tolerance * abs(value):
            break
    return theta, objective


def sparsity(theta: np.ndarray) -> dict[str, float]:
    """Shares of weights and of features (whole rows) that are exactly zero."""
    return {"weights": float((theta == 0).mean()), "features": float((theta == 0).all(axis=1).mean())}
