"""What a training step of DICM costs with each form of the embeddings, beside the same model of IDs alone.

    python tests/benchmarks/forms.py --out results/benchmarks/forms.json

A step is forward, backward and Adam on one batch of impressions, with one thread, in seconds of that thread (which
others on the machine disturb little); the median counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from downstream.forms.registry import FORMS
from downstream.images.joined import ItemImages
from downstream.models.build import FormMaker
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.training.epochs import PenalisedLoss
from downstream.training.settings import ImageSettings, ModelSettings


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    impressions, history, items, size : of a batch, of its histories, of the catalogue, and of the table's vectors
    steps : timed
    out : file of the figures; none by default
    """

    impressions: int = 1024
    history: int = 50
    items: int = 20_000
    size: int = 256
    steps: int = 15
    out: str | None = None


SIZES = {"user": 50_000, "item": 20_002, "category": 52, "words": 5002}


def make_batch(settings: Settings, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Impressions of items whose popularity is skewed; half of the history slots are padding."""
    drawn = (settings.items * rng.random((settings.impressions, settings.history + 1)) ** 3).astype(np.int64)
    mask = np.arange(settings.history) < rng.integers(settings.history + 1, size=(settings.impressions, 1))
    mentioned = np.zeros(settings.items, dtype=bool)
    mentioned[drawn[:, 0]] = mentioned[drawn[:, 1:][mask]] = True
    position = np.cumsum(mentioned) - 1
    row = np.flatnonzero(mentioned)
    batch = {
        "click": rng.integers(2, size=settings.impressions).astype(np.float32),
        "user": rng.integers(SIZES["user"], size=settings.impressions),
        "target": position[drawn[:, 0]],
        "history": np.where(mask, position[drawn[:, 1:]], 0),
        "mask": mask,
        "row": row,
        "context": np.arange(settings.impressions),
        "first": np.arange(settings.impressions),
        "item": row + 2,
        "category": 2 + row % 50,
        "words": rng.integers(2, SIZES["words"], size=(len(row), 16)),
    }
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def milliseconds(settings: Settings, images: ItemImages, image: ImageSettings | None) -> float:
    """Median time of a step."""
    make = FormMaker(images, image, settings.history, SIZES["category"]) if image else None
    model = EmbeddingMLP(SIZES, ModelSettings(), None, make)
    objective, optimizer = PenalisedLoss(model), torch.optim.Adam(model.parameters())
    rng = np.random.default_rng(0)
    times = []
    for batch in [make_batch(settings, rng) for _ in range(settings.steps + 3)]:
        start = time.process_time()
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
        times.append(1000 * (time.process_time() - start))
    return median(times[3:])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).normal(size=(settings.items, settings.size)).astype(np.float32)
    known = np.ones(settings.items, dtype=bool)
    images = ItemImages(vectors, known, known)
    cases = {"IDs alone": None, **{name: ImageSettings(form=name) for name in FORMS}}
    tunable = [name for name, form in FORMS.items() if "tune" in form.uses]
    tuned = {f"{name}, table learned": ImageSettings(form=name, tune="table") for name in tunable}
    found = {name: milliseconds(settings, images, image) for name, image in {**cases, **tuned}.items()}
    alone = found["IDs alone"]
    ratios = [Ratio(f"ms a step, {name}", value, alone, "IDs alone") for name, value in found.items()]
    finish(settings, {"cpu_milliseconds_a_step": found}, ratios[1:])


if __name__ == "__main__":
    run_command(main)
