"""What computing a page view's common features once brings: impressions a second of each model, and the AUC it costs.

    python tests/benchmarks/common_features.py --out results/benchmarks/common_features.json

One epoch of training with the impressions of a context side by side, and one pass of scoring the test split in the
order of the log, each with contexts shared and with a context an impression, in turns in one process. Beside it the
test AUC of training in that order and in random order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace

import numpy as np
from accelerate import Accelerator
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.data.ctr_data import Batch, CTRData, load_ctr_data
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.scoring import score
from downstream.training.settings import ImageSettings, TrainingDefaults


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    dataset : dataset folder with page views of several impressions
    table : embedding table, for the last of the models
    models : CTR models of IDs
    history : clicks of a user that are shown
    batch_size : impressions a step
    seeds : number of trainings each
    out : file of the figures; none by default
    """

    dataset: str = "runs/world/dataset"
    table: str = "runs/world/planted"
    models: tuple[str, ...] = ("logistic", "mlr", "embedding_mlp", "dssm", "dqm")
    history: int = 50
    batch_size: int = 1024
    seeds: int = 3
    out: str | None = None


ALONE = "a context an impression"


class Alone(CTRData):
    """The same data in the same order with a context for each impression."""

    def batch(self, rows: np.ndarray) -> Batch:
        each = np.arange(len(rows))
        return {**super().batch(rows), "context": each, "first": each}


def measured(data: CTRData, settings: Settings, model: str, table: EmbeddingTable | None, seed: int) -> dict:
    """Impressions a second of training and of scoring, shared and alone, and the AUC of both orders."""
    optim = OptimSettings(batch_size=settings.batch_size, by_context=True)
    shared = TrainingDefaults(data.settings, image=ImageSettings(aggregator="sum"), optim=optim)
    training = shared.chosen({"name": model})
    random = fit(data, table, replace(training, optim=replace(optim, by_context=False)), seed)
    found = {"auc, random order": random.metrics["test"]["all"]["auc"]}
    alone = Alone(**{field.name: getattr(data, field.name) for field in fields(data)})
    rows, here = data.rows["test"], Accelerator(cpu=True)
    scored = build_model(data, join_table(table, data) if table else None, training.model, training.image)
    for side, own in (("shared", data), ("alone", alone)):
        result = fit(own, table, training, seed)
        found[f"auc, {side}"] = result.metrics["test"]["all"]["auc"]
        found[f"training, {side}"] = result.epochs[0]["samples_per_second"]
        score(scored, own, rows[:4096], 4096, here)
        begun = time.perf_counter()
        score(scored, own, rows, 4096, here)
        found[f"scoring, {side}"] = len(rows) / (time.perf_counter() - begun)
    return found


def main() -> None:
    settings, console = parse_settings(Settings, __doc__), Console()
    data = load_ctr_data(settings.dataset, DataSettings(history=settings.history))
    table, figures, ratios = read_table(settings.table), {}, []
    for name in (*settings.models, "dicm, sum of images"):
        pictured = table if name.startswith("dicm") else None
        model = name.split(",")[0]
        runs = [measured(data, settings, model, pictured, seed) for seed in range(settings.seeds)]
        median = {figure: float(np.median([run[figure] for run in runs])) for figure in runs[0]}
        figures[name] = {"median": median, "runs": runs}
        ratios += [
            Ratio(f"impressions a second, {what} {name}", median[f"{what}, shared"], median[f"{what}, alone"], ALONE)
            for what in ("training", "scoring")
        ]
    rows = data.rows["train"]
    sharing = len(rows) / len(np.unique(data.contexts(rows)))
    console.print(f"{sharing:.2f} impressions a context")
    finish(settings, {"models": figures, "impressions_a_context": sharing}, ratios)


if __name__ == "__main__":
    run_command(main)
