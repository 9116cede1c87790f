"""Real photographs as products: tastes are planted over annotated attributes and quantities measured from pixels.

The folder holds ``items.csv`` (item_id, image, and title, category and annotated attributes where known) and the
pictures. The visible attributes, all of them ours:

==============  ======================================================================================================
colour          as annotated; tastes for two colours are similar if the mean colours of their products are
others          further annotated columns, value by value
texture         mean length of the lightness gradient inside the product
lightness       mean luma of the product
saturation      mean saturation (HSV) of the product
cover           share of the picture that the product covers
==============  ======================================================================================================

The product is what differs from the median colour of the picture's border. Measured quantities are standardised over
the catalogue and cut at three standard deviations. Only the title tells the seller and the offer, which are drawn at
random and appended to it. Page views are distributed over categories as products are.
"""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from rich.progress import track
from scipy.ndimage import binary_erosion

from data_tools.common.cli import UserError
from data_tools.common.lists import comma_separated
from data_tools.reading.columns import ITEM_COLUMNS, ITEM_OPTIONAL, parse_columns
from data_tools.reading.images import BadImage, read_image
from data_tools.reading.item_list import read_items
from data_tools.simulation.attributes import Attributes, Measured, Named, covariance_embedding
from data_tools.simulation.catalogue import BRANDS, Catalogue, draw_arrivals, draw_named
from data_tools.simulation.settings import World

OFFERS = ("express", "outlet", "bundle", "gift", "refund", "bonus", "limited", "pickup")
ANNOTATED = 0.4  # of the visible taste's variance; the rest belongs to measured quantities
MEASURED = {"texture": 0.25, "lightness": 0.15, "saturation": 0.1, "cover": 0.1}
SIDE = 96  # larger photographs are measured on a copy of this size
ALIKE = 0.2  # distance of mean colours, in RGB from 0 to 1, within which tastes for colours are similar
MOST_UNREADABLE = 0.05
# Words of colour that titles use and annotations lack.
COLOUR_WORDS = {
    "beige", "black", "blue", "bronze", "brown", "burgundy", "camel", "charcoal", "chrome", "color", "colored",
    "colors", "colour", "coloured", "colours", "copper", "coral", "cream", "crimson", "cyan", "dark", "gold",
    "golden", "gray", "green", "grey", "gunmetal", "indigo", "ivory", "khaki", "lavender", "light", "lime", "magenta",
    "maroon", "mauve", "metallic", "mint", "multi", "multicolor", "multicolored", "multicolour", "multicoloured",
    "mustard", "navy", "neon", "nude", "ochre", "off", "olive", "orange", "peach", "pink", "plum", "purple", "red",
    "rose", "ruby", "rust", "salmon", "silver", "skin", "steel", "tan", "taupe", "teal", "tone", "toned", "turquoise",
    "violet", "white", "wine", "yellow",
}  # fmt: skip


def measure(data: bytes) -> np.ndarray:
    """Texture, lightness, saturation, cover and mean red, green and blue of an encoded picture's product, in [0, 1].

    Returns
    -------
    numpy.ndarray
        float64 (7,).

    Raises
    ------
    BadImage
        If the picture cannot be read.
    """
    picture = read_image(data)
    picture.thumbnail((SIDE, SIDE))
    pixels = np.asarray(picture, np.float64) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    product = np.abs(pixels - np.median(border, axis=0)).max(axis=2) > 0.1
    cover = product.mean()
    if cover < 0.01:  # nothing differs from the border: take everything
        product[:] = True
    inside = binary_erosion(product, iterations=2)
    inside = inside if inside.mean() >= 0.01 else product
    luma = pixels @ [0.2126, 0.7152, 0.0722]
    most, least = pixels.max(axis=2), pixels.min(axis=2)
    saturation = (most - least) / np.maximum(most, 1e-6)
    gradient = np.hypot(*np.gradient(luma)) if min(luma.shape) > 1 else np.zeros_like(luma)
    colour = pixels[product].mean(axis=0)
    return np.array([gradient[inside].mean(), luma[product].mean(), saturation[product].mean(), cover, *colour])


def _read(world: World) -> tuple[pl.DataFrame, np.ndarray]:
    """A sample of the item list, those whose picture can be read, and what :func:`measure` says of each."""
    folder = Path(world.photos)
    if not folder.is_dir():
        raise UserError(f"the folder of photographs {folder} does not exist")
    columns = parse_columns(world.photo_columns, "--world.photo_columns", (*ITEM_COLUMNS, *ITEM_OPTIONAL))
    with tempfile.TemporaryDirectory() as work:
        read = read_items(folder / "items.csv", columns, Path(work)).items
    if "image" not in read.columns:
        raise UserError(f"{folder / 'items.csv'} has no column 'image'; set --world.photo_columns image=COLUMN")
    listed = read.filter(pl.col("item_id").is_first_distinct())
    drawn = np.random.default_rng([world.seed, 3]).permutation(len(listed))[: world.items]
    items = listed[drawn.tolist()]

    def measured(image: str | None) -> np.ndarray | None:
        try:
            return measure((folder / image).read_bytes()) if image else None
        except (BadImage, OSError):
            return None

    with ThreadPoolExecutor() as pool:
        work = pool.map(measured, items["image"])
        measures = list(track(work, "measuring photographs", total=len(items)))
    usable = np.array([one is not None for one in measures], bool)
    if not usable.any() or (~usable).mean() > MOST_UNREADABLE:
        missing = items.filter(~pl.Series(usable))["image"].head(3).to_list()
        raise UserError(
            f"{(~usable).sum():,} of {len(items):,} photographs in {folder} cannot be read, such as {missing}; "
            f"this exceeds the allowed fraction of {MOST_UNREADABLE}. Paths in items.csv are relative to that folder"
        )
    return items.filter(pl.Series(usable)), np.array([one for one in measures if one is not None])


def _values(items: pl.DataFrame, name: str, where: str | None) -> tuple[np.ndarray, list[str]]:
    """Codes and names of an annotated column's values; missing counts as a value."""
    if name not in items.columns:
        raise UserError(f"items.csv in {where} has no column '{name}' to plant tastes over; it has {items.columns}")
    values = items[name].cast(pl.String).fill_null("unknown")
    names = values.unique().sort()
    return values.replace_strict(names, pl.arange(len(names), eager=True)).to_numpy(), names.to_list()


def _colour(codes: np.ndarray, mean_colours: np.ndarray, share: float) -> Named:
    """Annotated colours as an attribute; the covariance of the tastes for two colours falls with their distance."""
    values = codes.max() + 1
    means = np.stack([mean_colours[codes == value].mean(axis=0) for value in range(values)])
    distance = np.linalg.norm(means[:, None] - means, axis=2)
    factor = np.linalg.cholesky(np.exp(-0.5 * (distance / ALIKE) ** 2) + 1e-6 * np.eye(values))
    return Named(codes, values, share, lambda taste: taste @ factor.T, covariance_embedding(factor))


def _standardised(amounts: np.ndarray) -> np.ndarray:
    for _ in range(2):  # again after clipping, which changes mean and variance
        amounts = ((amounts - amounts.mean()) / max(amounts.std(), 1e-12)).clip(-3, 3)
    return amounts / max(amounts.std(), 1e-12)


def _visible(world: World, items: pl.DataFrame, measures: np.ndarray) -> tuple[Attributes, set[str]]:
    """The visible attributes, and the words of the annotated ones."""
    others = list(filter(None, comma_separated(world.photo_attributes)))
    annotated = [name for name in (world.photo_colour, *others) if name]
    whole = 1.0 if annotated else 1 - ANNOTATED
    visible: Attributes = {}
    words: set[str] = set()
    for name in annotated:
        codes, names = _values(items, name, world.photos)
        share = ANNOTATED / len(annotated)
        colour = name == world.photo_colour
        visible[name] = _colour(codes, measures[:, 4:], share) if colour else Named(codes, len(names), share)
        words |= {word for value in names for word in re.findall(r"\w+", value.lower())}
    for column, (name, share) in enumerate(MEASURED.items()):
        visible[name] = Measured(_standardised(measures[:, column]), share / whole)
    return visible, words


def strip_words(title: str, words: set[str]) -> str:
    """The title without these words (lower case), whole words in any case."""
    kept = re.sub(r"\w+", lambda found: "" if found[0].lower() in words else found[0], title)
    return re.sub(r"\s+", " ", re.sub(r"\s[^\w\s]+(?=\s|$)", " ", kept)).strip()


def _categories(items: pl.DataFrame, rare: int) -> pl.Series:
    if "category" not in items.columns:
        return pl.repeat("all", len(items), eager=True)
    known = items.select(category=pl.col("category").fill_null("other"))
    few = pl.len().over("category") < rare
    return known.select(pl.when(few).then(pl.lit("other")).otherwise("category").alias("category"))["category"]


def photo_catalogue(world: World, rng: np.random.Generator) -> Catalogue:
    """Products with the photographs of ``world.photos``.

    Raises
    ------
    UserError
        If the folder, its items.csv or a named column is missing, or many of the pictures cannot be read.
    """
    items, measures = _read(world)
    n = len(items)
    visible, words = _visible(world, items, measures)
    textual = {"seller": draw_named(len(BRANDS), 0.6, n, rng), "offer": draw_named(len(OFFERS), 0.4, n, rng)}
    category, categories = _values(items.with_columns(category=_categories(items, world.rare)), "category", None)
    titles = items["title"].fill_null("").to_list() if "title" in items.columns else [""] * n
    if world.photo_titles == "stripped":
        titles = [strip_words(title, words | COLOUR_WORDS) for title in titles]
    sellers, offers = textual["seller"].codes, textual["offer"].codes
    return Catalogue(
        ids=items["item_id"].cast(pl.String).to_list(),
        category=category,
        categories=categories,
        shelves=np.bincount(category) / n,
        visible=visible,
        textual=textual,
        popularity=rng.normal(size=n) * world.popularity,
        arrival=draw_arrivals(world, n, rng),
        titles=[
            f"{title} by {BRANDS[s]}, {OFFERS[o]}".strip() for title, s, o in zip(titles, sellers, offers, strict=True)
        ],
        images=items["image"].to_list(),
    )
