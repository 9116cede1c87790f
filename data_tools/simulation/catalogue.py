"""The products of the simulated world: what they are, which attributes carry taste, when they arrive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.simulation.attributes import Attributes, Named, covariance_embedding
from data_tools.simulation.settings import DAY, World

# Drawn at random: no picture shows it.
BRANDS = ("Alder", "Brio", "Cove", "Dune", "Ember", "Fjord", "Grove", "Harbour", "Iris", "Juno")


@dataclass
class Catalogue:
    """Products, one entry each.

    Attributes
    ----------
    ids : list of str
        Item ids.
    category : int array (items,) into ``categories``
    shelves : numpy.ndarray or None
        Probability that a page view is of a category, float64 (categories,); None for equal ones.
    visible, textual : Attributes
        Attributes that carry taste, by name.
    popularity : float64 (items,)
    arrival : float64 (items,), seconds since the start
    titles, images : list of str
        One each; images are paths in the folder of pictures.
    """

    ids: list[str]
    category: np.ndarray
    categories: list[str]
    shelves: np.ndarray | None
    visible: Attributes
    textual: Attributes
    popularity: np.ndarray
    arrival: np.ndarray
    titles: list[str]
    images: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def draw_arrivals(world: World, items: int, rng: np.random.Generator) -> np.ndarray:
    """Arrival times: float64 (items,), seconds since the start, ascending; 0 for products there from the start."""
    return np.sort(np.where(rng.random(items) < world.new_share, rng.random(items) * world.days * DAY, 0.0))


def draw_named(values: int, share: float, items: int, rng: np.random.Generator) -> Named:
    """An attribute whose values are drawn at random."""
    return Named(rng.integers(values, size=items), values, share, embedding=covariance_embedding(np.eye(values)))


def planted_vectors(catalogue: Catalogue) -> np.ndarray:
    """What a perfect visual embedding would hold: float32 (items, n), the visible attributes side by side."""
    return np.concatenate([one.vectors() for one in catalogue.visible.values()], axis=1).astype(np.float32)
