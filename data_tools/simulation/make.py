"""Making a simulated world: its dataset, its shards, its planted table and how well the true probabilities rank."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import polars as pl

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.parquet import read_parquet
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.catalogue import Catalogue, planted_vectors
from data_tools.simulation.oracle import oracle_by_slice
from data_tools.simulation.rendered import draw_pictures
from data_tools.simulation.settings import START, World
from data_tools.tables.seen import NOTHING
from data_tools.tables.table import write_table

SPLITS = Rules(valid_from=0.75, test_from=0.85)
# What table.json says of the planted table; one that differs is of an earlier version and is made again.
PLANTED = {"encoder": "planted attributes", "scalar_products": "covariances of the tastes", "saw_until": NOTHING}


def _is_current(planted: Path) -> bool:
    """Whether the planted table is there, as this version makes it."""
    return planted.exists() and PLANTED.items() <= read_json(planted / "table.json").items()


def _check_same(made: Path, world: World) -> None:
    """Refuse a folder of another world; settings that its world.json lacks had their defaults."""
    if made.exists() and asdict(World()) | read_json(made) != asdict(world):
        raise UserError(f"{made.parent} contains a world with other settings; remove it, or choose another folder")


def make_world(world: World, folder: str | Path, requests_per_shard: int = 1024) -> Path:
    """Make ``folder/dataset``, ``folder/shards`` and ``folder/planted`` (the table of :func:`planted_vectors`).

    The key ``oracle`` of ``dataset.json`` says how well the true probabilities rank, see :func:`oracle_by_slice`.
    A folder that already contains this world is left as it is; a stopped job continues where it stopped.

    Raises
    ------
    UserError
        If the folder contains another world, or the photographs cannot be used.
    """
    folder = Path(folder)
    dataset, planted, shards = folder / "dataset", folder / "planted", folder / "shards"
    _check_same(folder / "world.json", world)
    if not dataset.exists() or not _is_current(planted) or "oracle" not in open_dataset(dataset).info:
        catalogue, log = simulate(world)
        write_json(folder / "world.json", asdict(world))
        if not dataset.exists():
            write_shop(world, catalogue, log, folder)
        if not _is_current(planted):
            shutil.rmtree(planted, ignore_errors=True)
            write_table(planted, catalogue.ids, planted_vectors(catalogue), PLANTED)
        write_oracle(dataset, log)
    if not shards.exists():
        write_shards(Shards(dataset=str(dataset), out=str(shards), requests_per_shard=requests_per_shard))
    return folder


def write_shop(world: World, catalogue: Catalogue, log: pl.DataFrame, folder: Path) -> None:
    """Write ``folder/dataset`` from what :func:`simulate` returns; draws the pictures of rendered products."""
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
        write_dataset(folder / "dataset", rows, items, images, rules=SPLITS, info=info)


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
    written = read_parquet(dataset / "impressions.parquet", columns=["item", "scene", "split"])
    if not written["item"].equals(log["item"].cast(written["item"].dtype)):
        raise UserError(f"{dataset} does not belong to the world in world.json next to it; remove both")
    record = dict(open_dataset(dataset).info)
    record["oracle"] = oracle_by_slice(log.with_columns(written["scene"], written["split"]))
    write_json(dataset / "dataset.json", record)
