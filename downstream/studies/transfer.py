"""What sharing brings: models of several tasks or scenes against models that share nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from rich.progress import Progress

from data_tools.common.checks import Checked, Seed
from data_tools.common.errors import UserError
from data_tools.common.files import whole_file, write_json
from data_tools.common.provenance import made_by
from data_tools.measures.spread import mean_and_spread
from data_tools.tables.table import EmbeddingTable
from downstream.comparison.cells import CELL_VERSION, table_digest, table_once
from downstream.data.ctr_data import CTRData
from downstream.report.page import write_page
from downstream.report.words import METRIC_NAMES, signed
from downstream.statistics.bootstrap import METRICS, BootstrapSettings, bootstrap_metrics
from downstream.statistics.intervals import Cells, difference_interval
from downstream.statistics.metrics import all_metrics
from downstream.studies.sharing import ALONE, KINDS, Scores, Train
from downstream.training.fit import fit
from downstream.training.settings import TrainingDefaults, TrainingSettings

DIFFERENCES = ("gauc", "auc", "log_loss")  # METRICS in the order of the report, the one that decides first


@dataclass(frozen=True, kw_only=True)
class TransferSettings(Checked):
    """A comparison of ways to share.

    Attributes
    ----------
    out : str
        Folder of the report.
    dataset : str
        Dataset folder, with conversions or scenes.
    kind : str
        What is shared: several tasks, or several scenes.
    models : list of str
        Models that share, each compared with the separate ones.
    table : str
        Embedding table; without one the models see IDs only.
    seeds : list of int
        Seeds of the trainings.
    training : TrainingDefaults
        Of all trainings; each takes the options that its model uses.
    bootstrap : BootstrapSettings
        Of the intervals.
    cache : str
        Folder of the trainings.
    """

    out: str
    dataset: str
    kind: Literal["tasks", "scenes"] = "tasks"
    models: list[str] = field(default_factory=lambda: ["esmm", "esmm_transfer"])
    table: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    training: TrainingDefaults = field(default_factory=TrainingDefaults)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    cache: str = "runs/transfer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training.data.history_by == "similarity" and not self.table:
            raise UserError(
                "training.data.history_by is 'similarity', which compares vectors; name a table that has them"
            )
        trainings = [self.training_of(model) for model in (ALONE, *self.models)]
        self.training.refuse_unused(trainings, decided={"model.name": "'models'"})

    def training_of(self, model: str) -> TrainingSettings:
        """Settings of the training of a model."""
        return self.training.chosen(model={"name": model})


def contestants(data: CTRData, settings: TransferSettings, train: Train) -> Iterator[tuple[str, Scores]]:
    """name -> task -> probabilities of the test split, of one seed: the separate models first."""
    yield from KINDS[settings.kind][1](data, train)
    for model in settings.models:
        yield model, train(model, data)


def _cached(folder: Path, make: Callable[[], Scores]) -> Scores:
    """Scores cached in a file, or made and cached."""
    path = folder.with_suffix(".npz")
    if not path.exists():
        scores = make()
        with whole_file(path) as scratch, open(scratch, "wb") as file:
            np.savez(file, **scores)
    try:
        with np.load(path) as cached:
            return dict(cached)
    except (ValueError, EOFError, BadZipFile) as error:  # the format holds checksums
        raise UserError(f"{path} is damaged: {error}; remove it, and the same command trains it again") from None


def _trainer(settings: TransferSettings, table: EmbeddingTable | None, seed: int, progress: Progress) -> Train:
    def train(model: str, data: CTRData) -> Scores:
        training = settings.training_of(model)
        inputs = [data.dataset.info["fingerprint"], table_digest(Path(settings.table)) if settings.table else None]
        decisive = [CELL_VERSION, *inputs, asdict(training), seed, sorted(data.sizes)]
        digest = hashlib.blake2b(json.dumps(decisive).encode(), digest_size=12)
        for array in (data.click, *data.rows.values()):
            digest.update(np.ascontiguousarray(array).data)
        return _cached(
            Path(settings.cache) / digest.hexdigest(),
            lambda: fit(data, table, training, seed, progress=progress).task_scores,
        )

    return train


def _cells(measured: list[tuple[float, np.ndarray, int]], users: int) -> Cells:
    """The trainings of one contestant, each with its value, bootstrap draws and seed, as cells without encoders."""
    values, draws, seeds = zip(*measured, strict=True)
    drawn = np.stack(draws)
    complete = drawn[:, np.isfinite(drawn).all(axis=0)]
    return Cells(np.array(values), complete, np.zeros(len(seeds), dtype=int), np.array(seeds), users)


def measure(data: CTRData, settings: TransferSettings, progress: Progress) -> dict[str, Any]:
    """Metrics of every contestant, part and seed, and the differences with their intervals.

    Returns
    -------
    dict
        ``parts``, name -> impressions and positives of the test split; ``cells``, each of contestant, part, seed, auc,
        gauc, log_loss; ``differences``, each of a, b, part, metric and an interval, where the mean is a - b and b a
        contestant that does not share.
    """
    table = table_once(Path(settings.table)) if settings.table else None
    parts = KINDS[settings.kind][0](data)
    users, user = np.unique(data.user[data.rows["test"]], return_inverse=True)
    cells, draws = [], {}
    task = progress.add_task("seeds", total=len(settings.seeds))
    for seed in settings.seeds:
        for name, scores in contestants(data, settings, _trainer(settings, table, seed, progress)):
            for part, one in parts.items():
                label, score, person = one.label, scores[one.task][one.place], user[one.place]
                drawn = bootstrap_metrics(label, score[None], person, len(users), settings.bootstrap)
                metrics = {metric: all_metrics(label, score, person)[metric] for metric in METRICS}
                cells.append({"contestant": name, "part": part, "seed": seed, **metrics})
                for metric in METRICS:
                    draws.setdefault((name, part, metric), []).append((metrics[metric], drawn[metric][0], seed))
        progress.advance(task)
    names = list(dict.fromkeys(cell["contestant"] for cell in cells))
    pairs = [(a, b) for b in names if b not in settings.models for a in names[names.index(b) + 1 :]]
    differences = []
    for (a, b), part, metric in product(pairs, parts, METRICS):
        ours, theirs = draws[a, part, metric], draws[b, part, metric]
        if all(value is not None for value, _, _ in ours + theirs):
            interval = difference_interval(_cells(ours, len(users)), _cells(theirs, len(users)), settings.bootstrap)
            differences.append({"a": a, "b": b, "part": part, "metric": metric, **asdict(interval)})
    sizes = {name: {"impressions": len(part.place), "positives": int(part.label.sum())} for name, part in parts.items()}
    return {"parts": sizes, "cells": cells, "differences": differences}


def _shown_difference(row: dict[str, Any] | None) -> str:
    """A difference with its interval, starred where the interval excludes 0."""
    if row is None:
        return "–"
    star = " *" if row["low"] > 0 or row["high"] < 0 else ""
    return f"{signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])}){star}"


def _tables(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What the template shows of each part: each contestant's metrics, and its differences from the separate ones."""
    differences = {(row["a"], row["b"], row["part"], row["metric"]): row for row in figures["differences"]}
    against = list(product(dict.fromkeys(row["b"] for row in figures["differences"]), DIFFERENCES))
    heads = [METRIC_NAMES[metric] for metric in METRICS] + [f"{METRIC_NAMES[metric]} − {b}" for b, metric in against]
    shown = []
    for part, size in figures["parts"].items():
        values: dict[str, list[dict[str, Any]]] = {}
        for cell in figures["cells"]:
            if cell["part"] == part:
                values.setdefault(cell["contestant"], []).append(cell)
        lines = [
            [
                name,
                *(mean_and_spread([cell[metric] for cell in own]) for metric in METRICS),
                *(_shown_difference(differences.get((name, b, part, metric))) for b, metric in against),
            ]
            for name, own in values.items()
        ]
        shown.append({"name": part, **size, "heads": heads, "lines": lines})
    return shown


def write_report(figures: dict[str, Any], data: CTRData, settings: TransferSettings, command: str) -> None:
    """Write report.md and figures.json.

    Parameters
    ----------
    figures : dict
        Of :func:`measure`.
    data : CTRData
        The dataset.
    settings : TransferSettings
        Of the comparison.
    command : str
        What made the figures.
    """
    figures["settings"] = asdict(settings)
    figures["made_by"] = made_by(command)
    context = {
        "kind": settings.kind,
        "parts": _tables(figures),
        "figures": figures,
        "dataset": data.dataset.info,
        "table": settings.table or "none, IDs only",
    }
    out = Path(settings.out)
    write_page(out / "report.md", "transfer.md.j2", context)
    write_json(out / "figures.json", figures)
