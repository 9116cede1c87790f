"""What near-duplicates do to training: a shop with planted ones, trained with and without knowing them.

    python tests/benchmarks/near_duplicate_negatives.py --work SCRATCH --out FILE

A simulated shop half of whose products are listed twice, the second time with the picture encoded again, a little
darker, or cropped. Each showing or click of such a product is of one listing, by a coin. The same encoder is trained on
shards that know near-duplicates and on shards that do not, and judged on the same page views: the slices are those of
the shards that know. Stopped? The same command continues.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import polars as pl
from PIL import Image
from report import finish

from data_tools.common.cli import parse_settings, run_command
from data_tools.dataset.rules import Rules
from data_tools.dataset.schema import open_dataset
from data_tools.dataset.write import write_dataset
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.evaluation.page_auc import encoder_page_auc, load_requests
from pretrain.evaluation.saved_encoder import load_run_encoder
from pretrain.settings import Batch, Encoder, Evaluation, Optim
from pretrain.settings import Settings as Training
from pretrain.train import train

DISTANCE = 6


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    work : folder for the shops and runs
    seeds : of the shop and the training
    items, users, requests : size of the shop before products are listed twice
    twice : share of the products listed twice
    image_size, steps, rows : of the training
    out : file of the figures; none by default
    """

    work: str
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    items: int = 400
    users: int = 400
    requests: int = 6000
    twice: float = 0.5
    image_size: int = 32
    steps: int = 60
    rows: int = 64
    out: str | None = None


def again(picture: Image.Image, how: int) -> bytes:
    """A picture as another seller lists it: encoded again, and darker or cropped by two per cent."""
    if how == 1:
        picture = picture.point(lambda level: round(level * 0.93))
    if how == 2:
        edge = max(1, round(0.02 * picture.width))
        picture = picture.crop((edge, edge, picture.width - edge, picture.height - edge))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=70)
    return file.getvalue()


def make_shop(settings: Settings, seed: int) -> Path:
    """Folder with ``known`` and ``unknown``, shards with and without near-duplicates, and ``twins.json``."""
    folder = Path(settings.work) / f"shop-{seed}"
    world = World(
        seed=seed,
        items=settings.items,
        users=settings.users,
        requests=settings.requests,
        image_size=2 * settings.image_size,
    )
    source = open_dataset(make_world(world, folder / "world") / "dataset")
    rng = np.random.default_rng(seed)
    items = source.items.select("item_id", "image", "title", "category")
    listed = items.filter(rng.random(len(items)) < settings.twice)
    twins = listed.with_columns(item_id=pl.col("item_id") + "-b", image=pl.col("image") + ".b.jpg")
    for row, (name, twin) in enumerate(zip(listed["image"], twins["image"], strict=True)):
        with Image.open(source.place / name) as picture:
            (source.place / twin).write_bytes(again(picture.convert("RGB"), row % 3))
    log = source.impressions.with_columns(coin=pl.Series(rng.random(len(source.impressions)) < 0.5))
    other = pl.col("coin") & pl.col("item_id").is_in(listed["item_id"].implode())
    log = log.with_columns(item_id=pl.when(other).then(pl.col("item_id") + "-b").otherwise("item_id"))
    log.select("user_id", "item_id", "timestamp", "click", "oracle", request_id="request").write_parquet(
        folder / "log.parquet"
    )
    for name, distance in (("known", DISTANCE), ("unknown", None)):
        if not (folder / name).exists():
            rules = Rules(valid_from=0.75, test_from=0.85, near_duplicates=distance)
            if not (folder / f"dataset-{name}").exists():
                write_dataset(
                    folder / f"dataset-{name}",
                    folder / "log.parquet",
                    pl.concat([items, twins]),
                    source.place,
                    rules=rules,
                )
            write_shards(Shards(dataset=str(folder / f"dataset-{name}"), out=str(folder / name), workers=1))
    return folder


def found(dataset: Path) -> dict[str, float]:
    """How many planted near-duplicates were found, and how many others were taken for such."""
    data = open_dataset(dataset)
    ids, first = data.items["item_id"].to_list(), data.first_alike
    groups: dict[int, list[str]] = {}
    for item, of in enumerate(first):
        groups.setdefault(int(of), []).append(ids[item])
    planted = {item for item in ids if item.endswith("-b")}
    together = sum(1 for group in groups.values() for item in group if f"{item}-b" in group)
    wrong = sum(len(group) for group in groups.values() if len({item.removesuffix("-b") for item in group}) > 1)
    return {"planted": len(planted), "found": together / len(planted), "wrongly_merged": wrong / len(ids)}


def trained(settings: Settings, folder: Path, name: str, seed: int) -> dict[str, float]:
    """Page AUC on test, warm and cold as the shards that know near-duplicates say."""
    run = folder / f"run-{name}"
    if not (run / "summary.json").exists():
        train(
            Training(
                data=str(folder / name),
                out=str(run),
                seed=seed,
                encoder=Encoder(image_size=settings.image_size),
                batch=Batch(rows=settings.rows, workers=0),
                optim=Optim(steps=settings.steps, precision="fp32"),
                evaluation=Evaluation(every=20),
                checkpoint_every=settings.steps,
                resume=run.exists(),
            )
        )
    encoder, _, _ = load_run_encoder(run)
    test = load_requests(folder / "known", "test", image_size=settings.image_size, history=30, limit=1_000_000, seed=0)
    return {part: one["auc"] for part, one in encoder_page_auc(encoder, test).items()}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    rows = []
    for seed in settings.seeds:
        folder = make_shop(settings, seed)
        rows.append({"seed": seed, **found(folder / "dataset-known")})
        for name in ("known", "unknown"):
            rows[-1][name] = trained(settings, folder, name, seed)
        print(rows[-1], flush=True)
    gains = {part: [row["known"][part] - row["unknown"][part] for row in rows] for part in ("warm", "cold")}
    spread = {part: {"mean": mean(some), "deviation": stdev(some)} for part, some in gains.items() if len(some) > 1}
    finish(settings, {"rows": rows, "known_minus_unknown": spread})


if __name__ == "__main__":
    run_command(main)
