"""The settings of the simulated world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from data_tools.common.checks import Checked, Seed, Share
from data_tools.common.errors import UserError

DAY = 86_400
START = 1_700_000_000
SCENES = ("home", "search", "new")
MOST_SMALL = 0.9  # of the page views, in the small scenes together


@dataclass(frozen=True)
class World(Checked):
    """The simulated world.

    Attributes
    ----------
    seed : int
        Seed of everything in it.
    items : int
        Number of products. With photographs: at most this many, drawn at random.
    users : int
        Number of users.
    requests : int
        Number of page views.
    slots : int
        Products shown in a page view.
    days : int
        Days the log covers.
    visual_share : float
        Share of the taste's variance that only the picture shows.
    strength : float
        Standard deviation of the taste in the click's log odds.
    new_share : float
        Share of the products that arrive after the first day.
    new_days : float
        Age in days up to which the scene "new" shows a product.
    named_colour : float
        Share of the rendered products whose title names the colour.
    image_size : int
        Side of the rendered pictures in pixels.
    base : float
        Log odds of a click in the scene "home", at the first position, with average taste and popularity.
    popularity : float
        Standard deviation of the products' popularity.
    position_bias : float
        Log odds lost with each further position.
    small_scenes : int
        Further scenes besides home, search and new, each with its own click rate.
    small_scene_share : float
        Share of the page views in each of them.
    scene_shift : float
        Share of the taste's variance that is each small scene's own.
    scene_taste : float
        Factor of the taste in the small scenes; below 0, users there choose what they pass over elsewhere.
    conversion_rate : float
        A click converts with probability conversion_rate * sigmoid(its own taste).
    conversion_strength : float
        Standard deviation of that taste.
    conversion_own : float
        Share of its variance that clicks do not depend on.
    photos : str or null
        Folder of real photographs to use instead of rendered pictures: items.csv and the pictures it names.
    photo_columns : str
        Our names for the columns of items.csv, as in item_id=sku,image=file,title=name,category=type.
    photo_colour : str
        Column of items.csv with the annotated colour, over which tastes are planted; empty for none.
    photo_attributes : str
        Further columns with annotated visible attributes, separated by commas.
    photo_titles : "stripped" or "full"
        "stripped" removes words of colour and of those columns' values from the titles.
    rare : int
        Categories with fewer photographs than this are pooled.
    """

    seed: Seed = 0
    items: PositiveInt = 2000
    users: PositiveInt = 2000
    requests: PositiveInt = 40_000
    slots: PositiveInt = 6
    days: PositiveInt = 40
    visual_share: ClosedUnitInterval = 0.7
    strength: float = 2.5
    new_share: ClosedUnitInterval = 0.6
    new_days: float = 4.0
    named_colour: ClosedUnitInterval = 0.2
    image_size: PositiveInt = 64
    base: float = -1.2
    popularity: float = 1.0
    position_bias: float = 0.12
    small_scenes: NonNegativeInt = 0
    small_scene_share: Share = 0.05
    scene_shift: ClosedUnitInterval = 0.0
    scene_taste: float = 1.0
    conversion_rate: ClosedUnitInterval = 0.1
    conversion_strength: float = 1.0
    conversion_own: ClosedUnitInterval = 0.0
    photos: str | None = None
    photo_columns: str = ""
    photo_colour: str = "baseColour"
    photo_attributes: str = ""
    photo_titles: Literal["stripped", "full"] = "stripped"
    rare: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.small_scenes * self.small_scene_share > MOST_SMALL:
            raise UserError(
                f"small_scenes is {self.small_scenes} with small_scene_share {self.small_scene_share}; together they "
                f"may take at most {MOST_SMALL} of the page views"
            )

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes."""
        return (*SCENES, *(f"small{number}" for number in range(1, self.small_scenes + 1)))
