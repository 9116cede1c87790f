"""The settings of the simulated world."""

from __future__ import annotations

from dataclasses import dataclass

from data_tools.common.cli import UserError

DAY = 86_400
START = 1_700_000_000
SCENES = ("home", "search", "new")


@dataclass
class World:
    """The simulated world.

    Attributes:
        seed: Seed of everything in it.
        items: Number of products; of photographs, at most so many, drawn at random.
        users: Number of users.
        requests: Number of page views.
        slots: Products shown in a page view.
        days: Days the log covers.
        visual_share: Share of the taste's variance that is visible only in the picture, in [0, 1].
        strength: Standard deviation of the taste in the click's log odds.
        new_share: Share of the products that arrive after the first day.
        new_days: Age in days up to which the scene "new" shows a product.
        named_colour: Share of the titles of rendered products that name the colour, in [0, 1].
        image_size: Side of the rendered pictures in pixels.
        base: Log odds of a click in the scene "home", at the first position, where taste and popularity are average.
        popularity: Standard deviation of the products' popularity.
        position_bias: What a slot further down costs in log odds.
        small_scenes: Further scenes, each with its own click rate, beside home, search and new.
        small_scene_share: Share of the page views that each of them has.
        scene_shift: Share of the taste's variance that is each small scene's own, in [0, 1].
        scene_taste: Factor of the taste in the small scenes; below 0, users look there for what they else pass over.
        conversion_rate: A click converts with probability conversion_rate * sigmoid(its own taste).
        conversion_strength: Standard deviation of that taste.
        conversion_own: Share of its variance that clicks know nothing of, in [0, 1].
        photos: Folder of real photographs to use in place of rendered pictures: items.csv and the pictures it names.
        photo_columns: Our names for the columns of items.csv, as in item_id=sku,image=file,title=name,category=type.
        photo_colour: Column of items.csv with the annotated colour, over which tastes are planted; empty where none is.
        photo_attributes: Further columns with annotated visible attributes, by commas.
        photo_titles: "stripped" of words of colour and of those columns' values, or "full".
        rare: Categories of fewer photographs than this are pooled.
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
    base: float = -1.2
    popularity: float = 1.0
    position_bias: float = 0.12
    small_scenes: int = 0
    small_scene_share: float = 0.05
    scene_shift: float = 0.0
    scene_taste: float = 1.0
    conversion_rate: float = 0.1
    conversion_strength: float = 1.0
    conversion_own: float = 0.0
    photos: str | None = None
    photo_columns: str = ""
    photo_colour: str = "baseColour"
    photo_attributes: str = ""
    photo_titles: str = "stripped"
    rare: int = 40

    def __post_init__(self) -> None:
        for name in ("visual_share", "new_share", "named_colour", "scene_shift", "conversion_rate", "conversion_own"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"world.{name} is a share in [0, 1], not {getattr(self, name)}")
        for name in ("items", "users", "requests", "slots", "days"):
            if getattr(self, name) < 1:
                raise UserError(f"world.{name} is at least 1, not {getattr(self, name)}")
        if self.small_scenes < 0 or not 0 < self.small_scene_share * max(1, self.small_scenes) <= 0.9:
            raise UserError(
                f"world.small_scenes {self.small_scenes} of {self.small_scene_share} of the page views each: "
                "the small scenes together take at most 0.9 of them"
            )
        if self.photo_titles not in ("stripped", "full"):
            raise UserError(f"world.photo_titles is stripped or full, not {self.photo_titles!r}")

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes."""
        return (*SCENES, *(f"small{number}" for number in range(1, self.small_scenes + 1)))
