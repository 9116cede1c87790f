"""What ctr_growth measures, each in a process of its own: steps, a training with a table, scoring, a forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from drawn_impressions import impressions
from own_memory import watched

from data_tools.common.cli import progress_bar
from data_tools.common.scratch import scratch_array
from data_tools.common.system import peak_memory
from downstream import serving
from downstream.data.ctr_data import mask_ids
from downstream.data.tensors import tensors
from downstream.images.joined import ItemImages
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.optimizer import make_optimizer
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import ModelSettings, TrainingSettings

SAME = 10_000  # users and items of the impressions that are the same at every size
MODELS = {"din": None, "dicm": 16}  # and the size of the vectors it is given
WARM_UP = 5  # steps before the first that is timed


@dataclass
class Clock:
    """Seconds of the processor and on the clock since it was made."""

    processor: float = field(default_factory=time.process_time)
    wall: float = field(default_factory=time.perf_counter)

    def read(self) -> dict[str, float]:
        return {"processor": time.process_time() - self.processor, "wall": time.perf_counter() - self.wall}


def measure_steps(name: str, size: int, among: int, optimizer: str, batch_size: int, steps: int) -> dict[str, float]:
    """Median milliseconds a step."""
    if optimizer == "adam" and size >= 1_000_000:
        steps = min(steps, 20)
    data = impressions(size, among, (WARM_UP + steps) * batch_size)
    settings = TrainingSettings(data.settings, ModelSettings(name), optim=OptimSettings(id_optimizer=optimizer))
    images = None
    if width := MODELS[name]:
        vectors = scratch_array((size, width))
        vectors[:] = np.random.default_rng(2).standard_normal((1, width), dtype=np.float32)
        vectors[:, 0] = np.arange(size) % 97
        images = ItemImages(vectors, data.warm, data.warm)
    torch.manual_seed(0)
    model = build_model(data, images, settings.model, settings.image)
    adam, rng, taken = make_optimizer(model, settings), np.random.default_rng(3), []
    for rows in data.rows["train"].reshape(-1, batch_size):
        clock = Clock()
        batch = tensors(mask_ids(data.batch(rows), settings.optim.unknown_rate, rng))
        loss = model.penalised_loss(batch)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        taken.append(clock.read())
    median = {name: 1e3 * float(np.median([one[name] for one in taken[WARM_UP:]])) for name in taken[0]}
    return {**median, "distinct_items": len(batch["row"])}


def measure_table(dataset: str, table: str, out: str) -> dict[str, float]:
    """Peak memory, in MiB, of a DICM training with a table, and its seconds."""
    settings = RunSettings(
        DataSettings(history=50),
        optim=OptimSettings(id_optimizer="sparse_adam"),
        dataset=dataset,
        table=table,
        out=out,
    )
    clock = Clock()
    with watched() as peak, progress_bar(shown=False) as progress:
        train(settings, progress)
    return {"peak_mib": peak_memory()["process"], "own_peak_mib": peak.mebibytes, **clock.read()}


def measure_scoring(run: str, log: str, out: str) -> dict[str, float]:
    """Seconds and peak memory of scoring a log."""
    scorer, clock = serving.load(run), Clock()
    scored = scorer.score(log, out)
    return {"rows": scored.scored, **clock.read(), "peak_mib": peak_memory()["process"]}


@torch.inference_mode()
def measure_forward(run: str, rows: int) -> dict[str, float]:
    """Seconds of a forward pass over batches that are made already."""
    model, data, _ = load_run(run)
    torch.set_num_threads(1)
    size = serving.ScoreSettings().batch_size
    made = [tensors(data.batch(np.arange(start, start + size))) for start in range(0, rows, size)]
    model.probabilities(made[0])
    clock = Clock()
    for batch in made:
        model.probabilities(batch)
    return {"rows": len(made) * size, **clock.read()}


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "steps": measure_steps,
    "table": measure_table,
    "scoring": measure_scoring,
    "forward": measure_forward,
}
