"""How often the leak check flags tables that saw test labels, and how often honest ones.

    python -m tests.benchmarks.leaks > results/benchmarks/leaks.md

Tables are made for planted worlds of 1,000 to 10,000 items of different popularity, which drifts, with unequal splits
(70, 10 and 20 % of the time). Leaky: singular vectors of the test clicks (item means removed), the items' click rate on
test alone or beside honest vectors, and an encoder (random features of noisy pictures, ridge) fitted to test clicks.
Honest: the planted attributes with and without noise, smoothed popularity of training, singular vectors of training
clicks, encoders fitted to training clicks, random vectors, and several side by side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from sklearn.linear_model import Ridge

from downstream.comparison.leaks import probe
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings
from tests.downstream.conftest import make_world

SIZES = (16, 32, 64, 128)
Table = tuple[str, np.ndarray]


def click_rate(data: CTRData, split: str, weight: float = 0.0) -> np.ndarray:
    """Click rate of each item in a split, smoothed by ``weight`` impressions of the mean: float64 (items, 1)."""
    rows = data.rows[split]
    shown = np.bincount(data.item[rows], minlength=len(data.warm))
    clicks = np.bincount(data.item[rows], weights=data.click[rows], minlength=len(data.warm))
    mean = data.click[rows].mean()
    return ((clicks + weight * mean) / np.maximum(shown + weight, 1))[:, None]


def click_vectors(data: CTRData, split: str, size: int) -> np.ndarray:
    """Right singular vectors of users x items in a split, of clicks less the item's mean: float64 (items, size)."""
    rows = data.rows[split]
    residual = data.click[rows] - click_rate(data, split)[data.item[rows], 0]
    shape = int(data.user.max()) + 1, len(data.warm)
    matrix = csr_matrix((residual.astype(np.float64), (data.user[rows], data.item[rows])), shape=shape)
    _, values, vectors = svds(matrix, min(size, min(shape) - 1), random_state=0)
    return vectors.T * values


def encoded(data: CTRData, pictures: np.ndarray, split: str, seed: int) -> np.ndarray:
    """What an encoder makes of ``pictures`` (items, P) after training on a split's clicks: float64 (items, 32).

    Random nonlinear features, and a ridge regression of the split's click vectors on them, over the items shown in it.
    """
    rng = np.random.default_rng(seed)
    features = np.maximum(pictures @ rng.normal(size=(pictures.shape[1], 400)) / pictures.shape[1] ** 0.5, 0)
    shown = np.unique(data.item[data.rows[split]])
    return Ridge(1.0).fit(features[shown], click_vectors(data, split, 32)[shown]).predict(features)


def leaky(data: CTRData, planted: np.ndarray, seed: int) -> Iterator[Table]:
    """Tables that saw test labels."""
    rng = np.random.default_rng([seed, 1])
    noise, rate = rng.normal(size=(len(planted), 8)), click_rate(data, "test")
    for size in SIZES:
        yield f"SVD of test clicks, {size}", click_vectors(data, "test", size)
    both = replace(data, rows={**data.rows, "both": np.concatenate([data.rows["valid"], data.rows["test"]])})
    yield "SVD of validation and test clicks, 32", click_vectors(both, "both", 32)
    yield "click rate on validation and test", click_rate(both, "both")
    yield "click rate on test", rate
    yield "click rate on test beside noise", np.column_stack([noise, rate])
    yield "click rate on test beside attributes", np.column_stack([planted, rate])
    pictures = np.column_stack([planted, rng.normal(size=(len(planted), 60))])
    yield "encoder trained on test", encoded(data, pictures, "test", seed)


def honest(data: CTRData, planted: np.ndarray, seed: int) -> Iterator[Table]:
    """Tables that did not."""
    rng = np.random.default_rng([seed, 2])
    noise = rng.normal(size=(len(planted), 16))
    popularity = click_rate(data, "train", 20.0)
    yield "attributes", planted
    for amount in (0.5, 1.0, 2.0):
        yield f"attributes, noise {amount:g}", planted + amount * rng.normal(size=planted.shape)
    yield "noise", noise
    yield "popularity", popularity
    yield "popularity beside noise", np.column_stack([noise, popularity])
    yield "popularity beside attributes", np.column_stack([planted, popularity])
    for size in SIZES:
        yield f"SVD of training clicks, {size}", click_vectors(data, "train", size)
    yield "SVD of training clicks beside attributes", np.column_stack([planted, click_vectors(data, "train", 16)])
    pictures = np.column_stack([planted, rng.normal(size=(len(planted), 60))])
    for number in range(2):
        yield f"encoder trained on train {number}", encoded(data, pictures, "train", seed + number)


# items, users, pages a user: 50,000 to 200,000 impressions, 15 to 100 a item
WORLDS = ((1000, 800, 15), (1000, 2000, 15), (2000, 2000, 20), (3000, 1500, 25), (5000, 3000, 12), (10_000, 4000, 10))


def flags(items: int, users: int, pages: int, seed: int) -> list[tuple[str, str, bool]]:
    """(kind, table, flagged) of every table of one world."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(
            Path(folder) / "dataset", users, items, pages, taste=1.2, seed=seed, popularity=0.6, drift=0.2
        )
        data = load_ctr_data(world.folder, DataSettings(history=30))
        found, planted = np.ones(items, dtype=bool), world.table.vectors.astype(np.float64)
        return [
            (kind, name, probe(table.astype(np.float32), found, data).reason is not None)
            for kind, tables in (("leaky", leaky), ("honest", honest))
            for name, table in tables(data, planted, seed)
        ]


def main() -> None:
    print("# Leak check\n\n`python -m tests.benchmarks.leaks`\n")
    seen: dict[tuple[str, str], list[bool]] = {}
    for seed in range(3):
        for world in WORLDS:
            for kind, name, flagged in flags(*world, seed):
                seen.setdefault((kind, name), []).append(flagged)
    print("| | table | worlds | flagged |\n|---|---|---|---|")
    for (kind, name), own in seen.items():
        print(f"| {kind} | {name} | {len(own)} | {np.mean(own):.0%} |")
    for kind in ("leaky", "honest"):
        own = [flag for (of, _), all_ in seen.items() if of == kind for flag in all_]
        print(f"\n{kind}: {sum(own)} of {len(own)} flagged ({np.mean(own):.1%}).")
    print(
        "\nThese tables are judged by their vectors alone. A table that a run of this project made also records until "
        "when the run saw data, and is always flagged where that is in the test range."
    )


if __name__ == "__main__":
    main()
