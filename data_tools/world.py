# PYTHON_ARGCOMPLETE_OK
"""The simulated world: a shop whose users' tastes are planted: the right answer is known.

python -m data_tools.world --out runs/world                                              # rendered pictures
python -m data_tools.world --photos DIR --world.items 5000 --world.requests 20000 --out runs/photos

Products have pictures, a category and a title. Two kinds of attributes carry taste: *visible* ones (colour, pattern,
cut; of photographs, the annotated colour and quantities measured from pixels), which only the picture shows in full,
and *textual* ones, which only the title gives. --world.visual_share sets how much of the taste is visible: at 0 no
visual method may win. The true click probability is kept as oracle. New items keep arriving, and the scene "new" shows
only those. data_tools/simulation/behaviour.py gives the model of clicks and conversions, photos.py what is seen in
photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.places import check_folder
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World


@dataclass(frozen=True)
class Settings:
    """Where to make it.

    Attributes
    ----------
    out : str
        Folder for dataset, shards and planted attributes.
    photos : str or null
        Folder of real photographs; short for --world.photos.
    world : World
        The shop.
    """

    out: str = "runs/world"
    photos: str | None = None
    world: World = field(default_factory=World)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    check_folder(settings.out)
    make_world(replace(settings.world, photos=settings.photos or settings.world.photos), settings.out)


if __name__ == "__main__":
    run_command(main)
