"""Scoring 10,000 ads for one user on one core: DQM with precomputed ad vectors, without them, and DIN.

    python tests/benchmarks/dqm.py --out results/benchmarks/dqm.json

Random IDs, images and history of the sizes of a small shop; weights are random, since they do not change the time. The
user tower is part of DQM's time. All sides score the same user and ads in one process with one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from downstream.images.embedder import make_embedder
from downstream.images.joined import ItemImages
from downstream.models.din import DIN
from downstream.models.dqm import DQM
from downstream.training.settings import ImageSettings, ModelSettings

LIMIT_MS = 5.0


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    ads : scored for one user
    history : clicks of the user
    image : size of an image's vector
    repeats : of DQM; the median and the 99th percentile are shown. The others run a tenth as often
    out : file of the figures; none by default
    """

    ads: int = 10_000
    history: int = 50
    image: int = 256
    repeats: int = 200
    out: str | None = None


@dataclass(frozen=True)
class Embedder:
    """What a model of towers takes of images: the embedding model alone."""

    images: ItemImages

    def embedder(self) -> torch.nn.Module:
        return make_embedder(self.images, ImageSettings())


def batch_of(settings: Settings, shown: np.ndarray) -> dict[str, torch.Tensor]:
    """One row an ad of ``shown``, all of one user, whose clicks are the ads 0, 1, 2, ..."""
    rows, distinct = len(shown), np.union1d(shown, np.arange(settings.history))
    rng = np.random.default_rng(1)
    words = rng.integers(2, 5000, size=(settings.ads, 16))
    batch = {
        "user": np.full(rows, 5),
        "scene": np.full(rows, 2),
        "target": np.searchsorted(distinct, shown),
        "history": np.tile(np.arange(settings.history), (rows, 1)),
        "mask": np.ones((rows, settings.history), dtype=bool),
        "row": distinct,
        "item": distinct + 2,
        "category": distinct % 20 + 2,
        "words": words[distinct],
        "context": np.zeros(rows, dtype=np.int64),
        "first": np.zeros(1, dtype=np.int64),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}


def timed(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Milliseconds of a call: median and 99th percentile."""
    call()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begun))
    return {"p50_ms": float(np.median(taken)), "p99_ms": float(np.quantile(taken, 0.99))}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = {"user": 2000, "item": settings.ads + 2, "category": 22, "words": 5000, "scene": 5}
    every = np.ones(settings.ads, dtype=bool)
    images = ItemImages(rng.normal(size=(settings.ads, settings.image)).astype(np.float32), every, every)
    dqm = DQM(sizes, ModelSettings("dqm"), None, Embedder(images)).eval()
    din = DIN(sizes, ModelSettings("din"), DIN.Settings(), None).eval()
    everything = np.arange(settings.ads)
    user, whole = batch_of(settings, everything[:1]), batch_of(settings, everything)
    parts = [batch_of(settings, part) for part in np.array_split(everything, max(1, settings.ads // 500))]
    with torch.inference_mode():
        vectors = dqm.item_vectors(whole).numpy()
        found = {
            "DQM, ad vectors precomputed": timed(lambda: vectors @ dqm.user_vectors(user)[0].numpy(), settings.repeats),
            "DQM, ad tower at each request": timed(lambda: dqm.item_vectors(whole), settings.repeats // 10),
            "DIN of IDs": timed(lambda: [din(part) for part in parts], max(1, settings.repeats // 40)),
        }
        # The precomputed product ranks as the model does.
        expected = dqm(whole).numpy()
        scores = vectors @ dqm.user_vectors(user)[0].numpy()
        np.testing.assert_allclose(scores - scores.mean(), expected - expected.mean(), atol=1e-3)
    ours, *others = ((name, one["p50_ms"]) for name, one in found.items())
    what = f"ms for {settings.ads:,} ads, {ours[0]}"
    limit = Ratio(what, ours[1], LIMIT_MS, "the limit", wanted=1, at_most=True)
    finish(settings, {"times": found}, [limit, *(Ratio(what, ours[1], taken, name) for name, taken in others)])


if __name__ == "__main__":
    run_command(main)
