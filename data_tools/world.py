"""The simulated world: a shop whose users' tastes are planted, so that the right answer is known.

Products have pictures, a category and a title. Two kinds of attributes carry taste: *visible* ones (colour, pattern,
cut) that only the picture shows in full, and *told* ones (brand, material) that only the title tells. Users look at
page views of one category each, and click with probability

    sigmoid(bias + strength * (sqrt(v) * visible(u, i) + sqrt(1 - v) * told(u, i)) + popularity(i) - position + scene)

where both tastes have unit variance over users and items and v is ``visual_share``: at 0 no visual method may win. That
probability is kept as ``oracle``. New items keep arriving, and the scene "new" shows only those. The model is ours.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.progress import track

from data_tools.cli import UserError, parse_settings, run_command
from data_tools.dataset import Rules, write_dataset
from data_tools.files import read_json, write_json
from data_tools.render import CATEGORIES, COLOURS, CUTS, PATTERNS, encode, render
from data_tools.shards import Settings as Shards
from data_tools.shards import write_shards
from data_tools.table import write_table

BRANDS = ("Alder", "Brio", "Cove", "Dune", "Ember", "Fjord", "Grove", "Harbour", "Iris", "Juno")
MATERIALS = ("cotton", "linen", "wool", "silk", "denim", "canvas", "leather", "felt")
SCENES = ("home", "search", "new")
DAY = 86_400
START = 1_700_000_000


@dataclass
class World:
    """The simulated world.

    Attributes:
        seed: Seed of everything in it.
        items: Number of products.
        users: Number of users.
        requests: Number of page views.
        slots: Products shown in a page view.
        days: Days the log covers.
        visual_share: Share of the taste's variance that is visible only in the picture, in [0, 1].
        strength: Standard deviation of the taste in the click's log odds.
        new_share: Share of the products that arrive after the first day.
        new_days: Age in days up to which the scene "new" shows a product.
        named_colour: Share of the titles that name the colour, in [0, 1].
        image_size: Side of the pictures in pixels.
    """

    seed: int = 0
    items: int = 2000
    users: int = 2000
    requests: int = 40_000
    slots: int = 6
    days: int = 40
    visual_share: float = 0.7
    strength: float = 2.5
    new_share: float = 0.6
    new_days: float = 4.0
    named_colour: float = 0.2
    image_size: int = 64


@dataclass
class Catalogue:
    """Products: one array entry each, attributes as indices into the lists of ``render`` and this module."""

    category: np.ndarray
    colour: np.ndarray
    pattern: np.ndarray
    cut: np.ndarray
    brand: np.ndarray
    material: np.ndarray
    popularity: np.ndarray
    arrival: np.ndarray  # seconds since the start


# Attribute, number of values and share of its side's variance; neighbouring colours are liked alike.
VISIBLE = (("colour", len(COLOURS), 0.55), ("pattern", len(PATTERNS), 0.3), ("cut", len(CUTS), 0.15))
TOLD = (("brand", len(BRANDS), 0.6), ("material", len(MATERIALS), 0.4))


def make_catalogue(world: World, rng: np.random.Generator) -> Catalogue:
    """Draw the products; attributes are independent of popularity and of each other."""
    n = world.items
    arrival = np.where(rng.random(n) < world.new_share, rng.random(n) * world.days * DAY, 0.0)
    return Catalogue(
        category=rng.integers(len(CATEGORIES), size=n),
        colour=rng.integers(len(COLOURS), size=n),
        pattern=rng.integers(len(PATTERNS), size=n),
        cut=rng.integers(len(CUTS), size=n),
        brand=rng.integers(len(BRANDS), size=n),
        material=rng.integers(len(MATERIALS), size=n),
        popularity=rng.normal(size=n),
        arrival=np.sort(arrival),
    )


def _planted(attributes: tuple, users: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tastes (users, values) for each attribute, of mean 0 over the values, with the variances given."""
    tastes = {}
    for name, values, share in attributes:
        taste = rng.normal(size=(users, values))
        if name == "colour":  # a circle: smooth over neighbours
            taste = taste + 0.8 * (np.roll(taste, 1, axis=1) + np.roll(taste, -1, axis=1))
        taste -= taste.mean(axis=1, keepdims=True)
        tastes[name] = taste / taste.std() * np.sqrt(share)
    return tastes


def _taste(tastes: dict[str, np.ndarray], catalogue: Catalogue, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    return sum(taste[user, getattr(catalogue, name)[item]] for name, taste in tastes.items())


def _draw_pages(world: World, catalogue: Catalogue, rng: np.random.Generator, chunk: int = 4096) -> pl.DataFrame:
    """Page views: user, time, scene and the products shown, drawn without replacement by popularity (Gumbel top-k)."""
    n = world.requests
    pages = {
        "time": np.sort(rng.random(n) * world.days * DAY),
        "user": rng.integers(world.users, size=n),
        "scene": rng.choice(len(SCENES), size=n, p=[0.4, 0.3, 0.3]),
        "category": rng.integers(len(CATEGORIES), size=n),
    }
    shown = np.full((n, world.slots), -1)
    for category in range(len(CATEGORIES)):
        members = np.flatnonzero(catalogue.category == category)
        rows = np.flatnonzero(pages["category"] == category)
        for part in np.array_split(rows, max(1, -(-len(rows) // chunk))):
            age = pages["time"][part, None] - catalogue.arrival[members]
            new_only = (pages["scene"][part] == SCENES.index("new"))[:, None]
            visible = (age >= 0) & (~new_only | (age < world.new_days * DAY) & (catalogue.arrival[members] > 0))
            keys = 0.5 * catalogue.popularity[members] + rng.gumbel(size=age.shape)
            keys = np.where(visible, keys, -np.inf)
            best = np.argsort(-keys, axis=1)[:, : world.slots]
            taken = np.take_along_axis(visible, best, axis=1)
            shown[part, : best.shape[1]] = np.where(taken, members[best], -1)
    request, position = np.nonzero(shown >= 0)
    slots = {name: values[request] for name, values in pages.items() if name != "category"}
    return pl.DataFrame({"request": request, "position": position, "item": shown[request, position], **slots})


def simulate(world: World) -> tuple[Catalogue, pl.DataFrame]:
    """Draw the products and the log.

    Returns
    -------
    catalogue : Catalogue
    log : polars.DataFrame
        One row an impression: request, position, item, user, scene (indices), time (seconds since the start), oracle
        (the true click probability), click and conversion (0 or 1; only clicks convert).
    """
    rng = np.random.default_rng(world.seed)
    catalogue = make_catalogue(world, rng)
    visible, told = _planted(VISIBLE, world.users, rng), _planted(TOLD, world.users, rng)
    log = _draw_pages(world, catalogue, rng)
    user, item, position, scene = (log[name].to_numpy() for name in ("user", "item", "position", "scene"))
    seen = _taste(visible, catalogue, user, item)
    read = _taste(told, catalogue, user, item)
    taste = np.sqrt(world.visual_share) * seen + np.sqrt(1 - world.visual_share) * read
    odds = -1.2 + world.strength * taste + 0.3 * catalogue.popularity[item] - 0.12 * position
    oracle = 1 / (1 + np.exp(-(odds + np.array([0.0, 0.4, -0.1])[scene])))
    click = rng.random(len(log)) < oracle
    conversion = click & (rng.random(len(log)) < 0.1 / (1 + np.exp(-taste)))
    return catalogue, log.with_columns(
        oracle=pl.Series(oracle),
        click=pl.Series(click.astype(np.int8)),
        conversion=pl.Series(conversion.astype(np.int8)),
    )


def titles(world: World, catalogue: Catalogue) -> list[str]:
    """What the titles tell: brand, material and category always, the colour for a share of the products."""
    named = np.random.default_rng([world.seed, 1]).random(world.items) < world.named_colour
    return [
        f"{BRANDS[brand]} {MATERIALS[material]} {CATEGORIES[category]}" + (f" in {COLOURS[colour]}" if name else "")
        for brand, material, category, colour, name in zip(
            catalogue.brand, catalogue.material, catalogue.category, catalogue.colour, named, strict=True
        )
    ]


def planted_vectors(catalogue: Catalogue) -> np.ndarray:
    """What a perfect visual embedding would hold: float32 (items, 18), the visible attributes one-hot."""
    blocks = [np.eye(values)[getattr(catalogue, name)] * np.sqrt(share) for name, values, share in VISIBLE]
    return np.concatenate(blocks, axis=1).astype(np.float32)


def make_world(world: World, folder: str | Path, requests_per_shard: int = 1024) -> Path:
    """Make ``folder/dataset``, ``folder/shards`` and ``folder/planted`` (the table of :func:`planted_vectors`).

    A folder that this very world was made in before is left as it is, and a stopped one goes on where it stopped.

    Raises
    ------
    UserError
        If the folder holds another world.
    """
    folder = Path(folder)
    made = folder / "world.json"
    if made.exists() and read_json(made) != asdict(world):
        raise UserError(f"{folder} holds a world with other settings; remove it or name another folder")
    write_json(made, asdict(world))
    if not (folder / "dataset").exists() or not (folder / "planted").exists():
        catalogue, log = simulate(world)
        ids = [f"p{item:06d}" for item in range(world.items)]
    if not (folder / "dataset").exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            items = _draw_items(world, catalogue, ids, Path(scratch))
            _write_log(world, log, ids, Path(scratch) / "log.parquet")
            write_dataset(
                folder / "dataset",
                Path(scratch) / "log.parquet",
                items,
                scratch,
                Rules(valid_from=0.75, test_from=0.85),
                info={"source": f"simulated world {asdict(world)}", "licence": "Apache-2.0"},
            )
    if not (folder / "planted").exists():
        write_table(folder / "planted", ids, planted_vectors(catalogue), {"encoder": "planted attributes"})
    if not (folder / "shards").exists():
        write_shards(
            Shards(dataset=str(folder / "dataset"), out=str(folder / "shards"), requests_per_shard=requests_per_shard)
        )
    return folder


def _draw_items(world: World, catalogue: Catalogue, ids: list[str], folder: Path) -> pl.DataFrame:
    for item in track(range(world.items), "drawing products"):
        picture = render(
            CATEGORIES[catalogue.category[item]],
            COLOURS[catalogue.colour[item]],
            PATTERNS[catalogue.pattern[item]],
            CUTS[catalogue.cut[item]],
            world.image_size,
            seed=[world.seed, 2, item],
        )
        (folder / f"{ids[item]}.jpg").write_bytes(encode(picture))
    return pl.DataFrame(
        {
            "item_id": ids,
            "image": [f"{item}.jpg" for item in ids],
            "title": titles(world, catalogue),
            "category": [CATEGORIES[category] for category in catalogue.category],
        }
    )


def _write_log(world: World, log: pl.DataFrame, ids: list[str], path: Path) -> None:
    log.select(
        user_id=pl.lit("u") + pl.col("user").cast(pl.String).str.zfill(6),
        item_id=pl.Series(ids).gather(log["item"]),
        timestamp=START + pl.col("time").cast(pl.Int64),
        click="click",
        request_id="request",
        scene=pl.Series(SCENES).gather(log["scene"]),
        position="position",
        conversion="conversion",
        oracle="oracle",
    ).write_parquet(path)


@dataclass
class Settings:
    """Simulate a shop: dataset, shards and planted attributes.

    Attributes:
        out: Folder to make.
        world: What kind of shop.
    """

    out: str = "runs/world"
    world: World = field(default_factory=World)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    make_world(settings.world, settings.out)


if __name__ == "__main__":
    run_command(main)
