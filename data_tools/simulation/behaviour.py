"""What users of the simulated world see, click and buy.

Users look at page views of one category each, and click with probability

    sigmoid(base + strength * taste(u, i) + 0.3 * popularity(i) - position_bias * position + scene)
    taste = sqrt(v) * visible(u, i) + sqrt(1 - v) * textual(u, i)

where both tastes have unit variance over users and items and v is ``visual_share``. In a small scene a share
``scene_shift`` of the taste's variance is the scene's own, and the whole is multiplied by ``scene_taste``. A click
converts with probability

    conversion_rate * sigmoid(conversion_strength * (sqrt(1 - w) * taste(u, i) + sqrt(w) * other(u, i)))

where w is ``conversion_own`` and ``other`` a second taste, planted like the first. The model is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from data_tools.simulation.attributes import plant, total_taste
from data_tools.simulation.catalogue import Catalogue
from data_tools.simulation.photos import photo_catalogue
from data_tools.simulation.rendered import rendered_catalogue
from data_tools.simulation.settings import DAY, SCENES, World

KEYS_AT_ONCE = 1 << 21
SCENE_WEIGHTS = (0.4, 0.3, 0.3)
SCENE_ODDS = (0.0, 0.4, -0.1)
SMALL_SCENE_ODDS = (0.8, -0.8)  # in turn
# Separate random streams: switching a setting on does not change other draws.
CONVERSION, SCENE = 4, 5

Taste = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def _taste(world: World, catalogue: Catalogue, rng: np.random.Generator) -> Taste:
    """Plant tastes; returns (user, item) -> float64, of unit variance."""
    visible = plant(catalogue.visible, world.users, rng)
    textual = plant(catalogue.textual, world.users, rng)

    def taste(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        seen = total_taste(catalogue.visible, visible, user, item)
        read = total_taste(catalogue.textual, textual, user, item)
        return np.sqrt(world.visual_share) * seen + np.sqrt(1 - world.visual_share) * read

    return taste


def _mixed(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Two tastes of unit variance combined; ``share`` of the variance is the second's."""
    return np.sqrt(1 - share) * first + np.sqrt(share) * second


def _shown(world: World, catalogue: Catalogue, pages: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Products of each page view, int64 (requests, slots), -1 where empty.

    Drawn without replacement from the category's products available by then, by popularity (Gumbel top-k).
    """
    shown = np.full((len(pages["time"]), world.slots), -1)
    for category in range(len(catalogue.categories)):
        members = np.flatnonzero(catalogue.category == category)
        rows = np.flatnonzero(pages["category"] == category)
        slots = min(world.slots, len(members))
        for part in np.array_split(rows, max(1, -(-len(rows) * len(members) // KEYS_AT_ONCE))):
            age = pages["time"][part, None] - catalogue.arrival[members]
            new_only = (pages["scene"][part] == SCENES.index("new"))[:, None]
            visible = (age >= 0) & (~new_only | (age < world.new_days * DAY) & (catalogue.arrival[members] > 0))
            keys = 0.5 * catalogue.popularity[members] + rng.gumbel(size=age.shape)
            keys = np.where(visible, -keys, np.inf)
            best = np.argpartition(keys, slots - 1, axis=1)[:, :slots]
            best = np.take_along_axis(best, np.argsort(np.take_along_axis(keys, best, axis=1), axis=1), axis=1)
            taken = np.take_along_axis(visible, best, axis=1)
            shown[part, :slots] = np.where(taken, members[best], -1)
    return shown


def _draw_pages(world: World, catalogue: Catalogue, rng: np.random.Generator) -> pl.DataFrame:
    """Page views, one row per impression: request, position, item, time, user and scene."""
    n = world.requests
    large = 1 - world.small_scenes * world.small_scene_share
    weights = [*(large * weight for weight in SCENE_WEIGHTS), *[world.small_scene_share] * world.small_scenes]
    pages = {
        "time": np.sort(rng.random(n) * world.days * DAY),
        "user": rng.integers(world.users, size=n),
        "scene": rng.choice(len(world.scenes), size=n, p=weights),
    }
    if catalogue.shelves is None:
        pages["category"] = rng.integers(len(catalogue.categories), size=n)
    else:
        pages["category"] = rng.choice(len(catalogue.categories), size=n, p=catalogue.shelves)
    shown = _shown(world, catalogue, pages, rng)
    request, position = np.nonzero(shown >= 0)
    slots = {name: values[request] for name, values in pages.items() if name != "category"}
    return pl.DataFrame({"request": request, "position": position, "item": shown[request, position], **slots})


def _scene_odds(world: World) -> np.ndarray:
    small = [SMALL_SCENE_ODDS[number % len(SMALL_SCENE_ODDS)] for number in range(world.small_scenes)]
    return np.array([*SCENE_ODDS, *small])


def simulate(world: World) -> tuple[Catalogue, pl.DataFrame]:
    """Draw the products and the log.

    Returns
    -------
    catalogue : Catalogue
    log : polars.DataFrame
        One row per impression, in time order: request, position, item, user, scene (indices), time (seconds since the
        start), oracle (the true click probability), oracle_conversion (that of a conversion, given a click), click and
        conversion (0 or 1; only clicks convert).
    """
    rng = np.random.default_rng(world.seed)
    catalogue = photo_catalogue(world, rng) if world.photos else rendered_catalogue(world, rng)
    liking = _taste(world, catalogue, rng)
    log = _draw_pages(world, catalogue, rng)
    user, item, position, scene = (log[name].to_numpy() for name in ("user", "item", "position", "scene"))
    taste = liking(user, item)
    for small in range(len(SCENES), len(world.scenes)) if world.scene_shift else ():
        here = scene == small
        own = _taste(world, catalogue, np.random.default_rng([world.seed, SCENE, small]))
        taste[here] = _mixed(taste[here], own(user[here], item[here]), world.scene_shift)
    taste[scene >= len(SCENES)] *= world.scene_taste
    odds = world.base + world.strength * taste + 0.3 * catalogue.popularity[item] - world.position_bias * position
    oracle = _sigmoid(odds + _scene_odds(world)[scene])
    click = rng.random(len(log)) < oracle
    buying = taste
    if world.conversion_own:
        other = _taste(world, catalogue, np.random.default_rng([world.seed, CONVERSION]))
        buying = _mixed(taste, other(user, item), world.conversion_own)
    buys = world.conversion_rate / (1 + np.exp(-world.conversion_strength * buying))
    conversion = click & (rng.random(len(log)) < buys)
    return catalogue, log.with_columns(
        oracle=pl.Series(oracle),
        oracle_conversion=pl.Series(buys),
        click=pl.Series(click.astype(np.int8)),
        conversion=pl.Series(conversion.astype(np.int8)),
    )
