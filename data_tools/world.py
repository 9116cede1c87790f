"""The simulated world: a shop whose users' tastes are planted, so that the right answer is known.

python -m data_tools.world --out runs/world                                              # rendered pictures
python -m data_tools.world --photos DIR --world.items 5000 --world.requests 20000 --out runs/photos

Products have pictures, a category and a title. Two kinds of attributes carry taste: *visible* ones (colour, pattern,
cut; of photographs, the annotated colour and quantities measured from pixels) that only the picture shows in full, and
*told* ones that only the title tells. ``visual_share`` says how much of the taste is visible: at 0 no visual method may
win. The true click probability is kept as ``oracle``. New items keep arriving, and the scene "new" shows only those.
The model of clicks and conversions stands in :mod:`data_tools.simulation.behaviour`, what is seen in photographs in
:mod:`data_tools.simulation.photos`.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl

from data_tools.cli import UserError, parse_settings, run_command
from data_tools.dataset import Rules, write_dataset
from data_tools.files import read_json, write_json
from data_tools.schema import open_dataset
from data_tools.shards import Settings as Shards
from data_tools.shards import write_shards
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.catalogue import Catalogue, planted_vectors
from data_tools.simulation.oracle import oracle_by_slice
from data_tools.simulation.rendered import draw_pictures
from data_tools.simulation.settings import DAY, SCENES, START, World
from data_tools.table import write_table

__all__ = [
    "DAY",
    "SCENES",
    "Settings",
    "World",
    "make_world",
    "planted_vectors",
    "simulate",
    "write_oracle",
    "write_shop",
]


def _check_same(made: Path, world: World) -> None:
    """Refuse a folder of another world; settings that its world.json does not know yet had their default."""
    if made.exists() and asdict(World()) | read_json(made) != asdict(world):
        raise UserError(f"{made.parent} holds a world with other settings; remove it or name another folder")


def make_world(world: World, folder: str | Path, requests_per_shard: int = 1024) -> Path:
    """Make ``folder/dataset``, ``folder/shards`` and ``folder/planted`` (the table of :func:`planted_vectors`).

    The dataset's ``dataset.json`` tells under ``oracle`` how well the truth ranks, see :func:`oracle_by_slice`.
    A folder that this very world was made in before is left as it is, and a stopped one goes on where it stopped.

    Raises
    ------
    UserError
        If the folder holds another world, or the photographs cannot be used.
    """
    folder = Path(folder)
    dataset, planted, shards = folder / "dataset", folder / "planted", folder / "shards"
    _check_same(folder / "world.json", world)
    if not dataset.exists() or not planted.exists() or "oracle" not in open_dataset(dataset).info:
        catalogue, log = simulate(world)
        write_json(folder / "world.json", asdict(world))
        if not dataset.exists():
            write_shop(world, catalogue, log, folder)
        if not planted.exists():
            write_table(planted, catalogue.ids, planted_vectors(catalogue), {"encoder": "planted attributes"})
        write_oracle(dataset, log)
    if not shards.exists():
        write_shards(Shards(dataset=str(dataset), out=str(shards), requests_per_shard=requests_per_shard))
    return folder


def write_shop(world: World, catalogue: Catalogue, log: pl.DataFrame, folder: Path) -> None:
    """Write ``folder/dataset`` from what :func:`simulate` gave, drawing the pictures of rendered products."""
    items = pl.DataFrame(
        {
            "item_id": catalogue.ids,
            "image": catalogue.images,
            "title": catalogue.titles,
            "category": [catalogue.categories[category] for category in catalogue.category],
        }
    )
    licence = "Apache-2.0" + ("; the photographs under their own" if world.photos else "")
    info = {"source": "simulated world", "licence": licence, "world": asdict(world)}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if not world.photos:
            draw_pictures(world, catalogue, Path(scratch))
        images, rows = world.photos or scratch, Path(scratch) / "log.parquet"
        _write_log(world, catalogue, log, rows)
        write_dataset(folder / "dataset", rows, items, images, Rules(valid_from=0.75, test_from=0.85), info=info)


def _write_log(world: World, catalogue: Catalogue, log: pl.DataFrame, path: Path) -> None:
    log.select(
        user_id=pl.lit("u") + pl.col("user").cast(pl.String).str.zfill(6),
        item_id=pl.Series(catalogue.ids).gather(log["item"]),
        timestamp=START + pl.col("time").cast(pl.Int64),
        click="click",
        request_id="request",
        scene=pl.Series(world.scenes).gather(log["scene"]),
        position="position",
        conversion="conversion",
        oracle="oracle",
    ).write_parquet(path)


def write_oracle(dataset: Path, log: pl.DataFrame) -> None:
    """Add ``oracle`` to ``dataset.json``, from the ``log`` that the dataset was written from."""
    written = pl.read_parquet(dataset / "impressions.parquet", columns=["item", "scene", "split"])
    if not written["item"].equals(log["item"].cast(written["item"].dtype)):
        raise UserError(f"{dataset} is not of the world that stands beside it in world.json; remove both")
    record = dict(open_dataset(dataset).info)
    record["oracle"] = oracle_by_slice(log.with_columns(written["scene"], written["split"]))
    write_json(dataset / "dataset.json", record)


@dataclass
class Settings:
    """Simulate a shop: dataset, shards and planted attributes.

    Attributes:
        out: Folder to make.
        photos: Folder of real photographs; short for --world.photos.
        world: What kind of shop.
    """

    out: str = "runs/world"
    photos: str | None = None
    world: World = field(default_factory=World)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    make_world(replace(settings.world, photos=settings.photos or settings.world.photos), settings.out)


if __name__ == "__main__":
    run_command(main)
