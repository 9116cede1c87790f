"""Rendered products: attributes drawn at random, pictures drawn from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

from data_tools.simulation.attributes import Named, covariance_embedding
from data_tools.simulation.catalogue import BRANDS, Catalogue, draw_arrivals, draw_named
from data_tools.simulation.render import CATEGORIES, COLOURS, CUTS, PATTERNS, encode, render
from data_tools.simulation.settings import World

MATERIALS = ("cotton", "linen", "wool", "silk", "denim", "canvas", "leather", "felt")


def _circle(taste: np.ndarray) -> np.ndarray:
    """Makes tastes for neighbouring values similar, including the last and the first."""
    return taste + 0.8 * (np.roll(taste, 1, axis=1) + np.roll(taste, -1, axis=1))


def _circle_embedding(values: int) -> np.ndarray:
    """float64 (values, values): scalar products are the covariances of the tastes that :func:`_circle` blends."""
    return covariance_embedding(_circle(np.eye(values)).T)


def rendered_catalogue(world: World, rng: np.random.Generator) -> Catalogue:
    """Draw the products; attributes are independent of popularity and of each other."""
    n = world.items
    arrival = draw_arrivals(world, n, rng)
    category = rng.integers(len(CATEGORIES), size=n)
    visible = {
        "colour": Named(
            rng.integers(len(COLOURS), size=n), len(COLOURS), 0.55, _circle, _circle_embedding(len(COLOURS))
        ),
        "pattern": draw_named(len(PATTERNS), 0.3, n, rng),
        "cut": draw_named(len(CUTS), 0.15, n, rng),
    }
    textual = {"brand": draw_named(len(BRANDS), 0.6, n, rng), "material": draw_named(len(MATERIALS), 0.4, n, rng)}
    ids = [f"p{item:06d}" for item in range(n)]
    named = np.random.default_rng([world.seed, 1]).random(n) < world.named_colour
    columns = textual["brand"].codes, textual["material"].codes, category, visible["colour"].codes, named
    return Catalogue(
        ids=ids,
        category=category,
        categories=list(CATEGORIES),
        shelves=None,
        visible=visible,
        textual=textual,
        popularity=rng.normal(size=n) * world.popularity,
        arrival=arrival,
        titles=[
            f"{BRANDS[b]} {MATERIALS[m]} {CATEGORIES[k]}" + (f" in {COLOURS[c]}" if name else "")
            for b, m, k, c, name in zip(*columns, strict=True)
        ],
        images=[f"{one}.jpg" for one in ids],
    )


def draw_pictures(world: World, catalogue: Catalogue, folder: Path) -> None:
    """Draw every product into ``folder``; each has its own seed, and the order of the work does not matter."""
    colour, pattern, cut = (catalogue.visible[name].codes for name in ("colour", "pattern", "cut"))

    def draw(item: int) -> None:
        names = CATEGORIES[catalogue.category[item]], COLOURS[colour[item]], PATTERNS[pattern[item]], CUTS[cut[item]]
        picture = render(*names, size=world.image_size, seed=[world.seed, 2, item])
        (folder / catalogue.images[item]).write_bytes(encode(picture))

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(draw, range(len(catalogue))), "drawing products", total=len(catalogue)):
            pass
