"""Attributes that carry taste: named values (a colour) or a measured quantity (lightness)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def covariance_embedding(factor: np.ndarray) -> np.ndarray:
    """The embedding of values whose tastes are ``normal @ factor.T``, less each user's mean: float64 (values, n).

    Scalar products are the tastes' covariances over users, scaled to a mean variance of one.
    """
    centred = factor - factor.mean(axis=0)
    return centred / np.sqrt((centred**2).sum(axis=1).mean() or 1.0)


@dataclass(frozen=True)
class Named:
    """An attribute with a few values, each with a taste of its own.

    Attributes
    ----------
    codes : int array (items,), in [0, values)
    share : float
        Of its side's (visible or textual) taste variance.
    blend : makes the tastes of similar values similar: float64 (users, values) -> the same
    embedding : float64 (values, n): a perfect embedding of each value; its scalar products should equal the
        tastes' covariances over users. One-hot by default
    """

    codes: np.ndarray
    values: int
    share: float
    blend: Callable[[np.ndarray], np.ndarray] | None = None
    embedding: np.ndarray | None = None

    def plant(self, users: int, rng: np.random.Generator) -> np.ndarray:
        """Tastes float64 (users, values), of mean 0 over the values and variance ``share``."""
        taste = rng.normal(size=(users, self.values))
        taste = taste if self.blend is None else self.blend(taste)
        taste -= taste.mean(axis=1, keepdims=True)
        return taste / taste.std() * np.sqrt(self.share)

    def taste(self, planted: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float64 (n,): how much each ``user`` likes this attribute of each ``item``; both int (n,)."""
        return planted[user, self.codes[item]]

    def vectors(self) -> np.ndarray:
        """float64 (items, n): the embedding of each item's value, weighted."""
        embedding = np.eye(self.values) if self.embedding is None else self.embedding
        return embedding[self.codes] * np.sqrt(self.share)


@dataclass(frozen=True)
class Measured:
    """A quantity that users like high or low.

    Attributes
    ----------
    amounts : float array (items,), of mean 0 and variance 1 over the items
    share : float
        Of the visible taste's variance.
    """

    amounts: np.ndarray
    share: float

    def plant(self, users: int, rng: np.random.Generator) -> np.ndarray:
        """Tastes float64 (users,), of variance ``share``."""
        taste = rng.normal(size=users)
        return taste / taste.std() * np.sqrt(self.share)

    def taste(self, planted: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float64 (n,): how much each ``user`` likes this attribute of each ``item``; both int (n,)."""
        return planted[user] * self.amounts[item]

    def vectors(self) -> np.ndarray:
        """float64 (items, 1): the quantity, weighted."""
        return self.amounts[:, None] * np.sqrt(self.share)


Attributes = dict[str, Named | Measured]
Tastes = dict[str, np.ndarray]


def plant(attributes: Attributes, users: int, rng: np.random.Generator) -> Tastes:
    """Tastes of the users for each attribute; their sum over the attributes has the variances' sum."""
    return {name: attribute.plant(users, rng) for name, attribute in attributes.items()}


def total_taste(attributes: Attributes, tastes: Tastes, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """float64 (n,): the sum over the attributes of how much each user likes each item."""
    return sum(attribute.taste(tastes[name], user, item) for name, attribute in attributes.items())
