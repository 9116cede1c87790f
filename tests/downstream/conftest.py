"""A planted world in the schema of a dataset folder: what is clicked follows a latent vector of the items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

from data_tools.common.files import write_json
from data_tools.tables.table import EmbeddingTable, write_table
from tests.downstream.compare_helpers import run

COLOURS = ["red", "green", "blue", "brown"]


@dataclass(frozen=True)
class World:
    folder: Path
    table: EmbeddingTable  # the planted vectors
    random: EmbeddingTable  # vectors that say nothing


def _pictures(folder: Path, vectors: np.ndarray) -> list[str]:
    (folder / "images").mkdir()
    names = [f"images/{item}.png" for item in range(len(vectors))]
    for name, vector in zip(names, vectors, strict=True):
        colour = np.clip(128 + 60 * vector[:3], 0, 255).astype(np.uint8)
        Image.fromarray(np.broadcast_to(colour, (16, 16, 3)).copy()).save(folder / name)
    return names


def make_world(
    folder: Path,
    users: int = 300,
    items: int = 160,
    pages: int = 20,
    taste: float = 2.0,
    seed: int = 0,
    *,
    popularity: float = 0.0,
    drift: float = 0.0,
) -> World:
    """Users who click what lies along their taste; a quarter of the items is first shown in the test split.

    ``popularity`` and ``drift`` are standard deviations, over items, of the log odds: at all times, and of their change
    over the whole time.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    vectors = rng.normal(size=(items, 4)).astype(np.float32)
    tastes = rng.normal(size=(users, 4))
    # Two users in five share each of two directions; the rest is on its own.
    tastes[: 2 * users // 5], tastes[2 * users // 5 : 4 * users // 5] = tastes[0], -tastes[0]
    tastes /= np.linalg.norm(tastes, axis=1, keepdims=True)
    order = rng.permutation(np.repeat(np.arange(users), pages))
    time = np.arange(len(order))
    split = np.select([time < 0.7 * len(time), time < 0.8 * len(time)], ["train", "valid"], "test")
    shown = np.where(
        (split == "test")[:, None],
        rng.integers(items, size=(len(order), 5)),
        rng.integers(3 * items // 4, size=(len(order), 5)),
    )
    odds = taste * np.einsum("pd,pkd->pk", tastes[order], vectors[shown]) - 1.0
    if popularity or drift:
        own = np.random.default_rng([seed, 1]).normal(size=(2, items))
        odds += popularity * own[0][shown] + drift * own[1][shown] * (time / len(order))[:, None]
    probability = 1 / (1 + np.exp(-odds))
    click = (rng.random(shown.shape) < probability).astype(np.int8)
    impressions = pl.DataFrame(
        {
            "user": np.repeat(order, 5).astype(np.int32),
            "item": shown.ravel().astype(np.int32),
            "timestamp": np.repeat(time, 5).astype(np.int64),
            "click": click.ravel(),
            "request": np.repeat(time, 5).astype(np.int64),
            "split": np.repeat(split, 5),
            "oracle": probability.ravel(),
        }
    ).with_columns(user_id=pl.format("u{}", "user"), item_id=pl.format("i{}", "item"))
    clicked = pl.col("click").cast(pl.Int32)
    before = clicked.cum_sum().over("user") - clicked.cum_sum().over("user", "request")
    impressions = impressions.with_columns(clicks_before=before.cast(pl.Int32))
    clicks = (
        pl.DataFrame({"user": np.arange(users, dtype=np.int32)})
        .join(
            impressions.filter(pl.col("click") == 1)
            .group_by("user", maintain_order=True)
            .agg(items=pl.col("item"), timestamps=pl.col("timestamp")),
            on="user",
            how="left",
        )
        .with_columns(
            pl.col("items").fill_null([]), pl.col("timestamps").fill_null([]), user_id=pl.format("u{}", "user")
        )
    )
    catalogue = pl.DataFrame(
        {
            "item": np.arange(items, dtype=np.int32),
            "image": _pictures(folder, vectors),
            "category": rng.choice(["hats", "bags"], size=items),
            "title": [f"A {COLOURS[item % 4]} thing, no. {item % 7}" for item in range(items)],
            "first_seen": np.zeros(items, dtype=np.int64),
        }
    ).with_columns(item_id=pl.format("i{}", "item"))
    for name, frame in {"items": catalogue, "impressions": impressions, "clicks": clicks}.items():
        frame.write_parquet(folder / f"{name}.parquet")
    info = {"schema_version": 1, "source": "planted", "fingerprint": f"planted-{seed}-{users}-{items}-{pages}-{taste}"}
    counts = {"users": users, "items": items, "impressions": len(impressions), "clicks": int(click.sum())}
    splits = {name: int((impressions["split"] == name).sum()) for name in ("train", "valid", "test")}
    write_json(folder / "dataset.json", {**info, "counts": counts, "splits": splits})
    ids = catalogue["item_id"].to_list()
    return World(folder, EmbeddingTable(ids, vectors), EmbeddingTable(ids, rng.normal(size=(items, 4)).astype("f4")))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("planted") / "dataset")


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("small") / "dataset", users=60, items=40, pages=8)


@pytest.fixture(scope="session")
def world_maker() -> Callable[..., World]:
    return make_world


@pytest.fixture(scope="session")
def tables(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder / "planted", world.table.ids, world.table.vectors, {})
    write_table(folder / "random", world.random.ids[4:], world.random.vectors[4:], {})
    return folder


@pytest.fixture(scope="session")
def yaml_file(world, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    settings = {
        "title": "Planted <world>",
        "dataset": str(world.folder),
        "cache": str(folder / "cache"),
        "sources": {
            "ids": {},
            "random": {"table": str(tables / "random")},
            "courier": {"table": [str(tables / "planted"), str(tables / "planted")]},
        },
        "forms": ["vector", "simscore"],
        "ctr_seeds": [0, 1],
        "training": {"data": {"history": 10}, "optim": {"batch_size": 128}},
        "bootstrap": {"resamples": 100},
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(settings))
    return folder / "compare.yaml"


@pytest.fixture(scope="session")
def reported(yaml_file):
    """The report of the comparison, whose cells are kept beside ``yaml_file``."""
    out = yaml_file.parent / "reported"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, "--config", yaml_file, "--out", out)
    return out


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
