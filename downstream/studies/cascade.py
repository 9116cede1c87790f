"""A cascade measured on logged requests: Qscore, a pre-ranker and a ranker, with IDs only and with images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from rich.progress import Progress

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.provenance import made_by
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.models.registry import MODELS
from downstream.models.towers import Towers
from downstream.report.page import write_page
from downstream.report.plots import survival
from downstream.statistics.metrics import gauc
from downstream.studies.stages import Cascade, best, qscore
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run, run_settings
from downstream.training.settings import TrainingDefaults, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(Checked):
    """A cascade.

    Attributes
    ----------
    out : str
        Folder of the report.
    dataset : str
        Dataset folder.
    tables : dict
        Name -> embedding table, null for IDs only; the others are compared with the first.
    pre : str
        Pre-ranker, a model of two towers.
    ranker : str
        Model of the last stage.
    keep : tuple of int
        Items that Qscore, the pre-ranker and the ranker keep.
    weight : float
        Impressions that Qscore's smoothing counts for.
    requests : int
        Logged requests of the test split, spread evenly over it.
    seeds : tuple of int
        Seeds of the trainings; the requests pass through the models of each.
    training : TrainingDefaults
        Of both models' trainings; each takes the options that it uses.
    cache : str
        Folder of the models.
    """

    out: str
    dataset: str
    tables: dict[str, str | None] = field(default_factory=dict)
    pre: str = "dqm"
    ranker: str = "din"
    keep: tuple[int, int, int] = (1000, 100, 10)
    weight: NonNegativeFloat = 20.0
    requests: PositiveInt = 300
    seeds: tuple[int, ...] = (0, 1, 2)
    training: TrainingDefaults = field(default_factory=TrainingDefaults)
    cache: str = "runs/cascade"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tables:
            raise UserError("tables is empty; name at least one, such as {ids: null, mine: TABLE}")
        if not issubclass(MODELS[self.pre], Towers):
            towers = sorted(name for name, model in MODELS.items() if issubclass(model, Towers))
            raise UserError(f"pre is {self.pre!r}, not a model of two towers; choose one of {', '.join(towers)}")
        if not self.seeds:
            raise UserError("seeds is empty; give one or more")
        if not self.keep[0] >= self.keep[1] >= self.keep[2] >= 1:
            raise UserError(f"keep is {self.keep}; each number must be >= 1 and at most the one before")
        trainings = [self.training_of(model) for model in (self.pre, self.ranker)]
        self.training.refuse_unused(trainings, decided={"model.name": "'pre' or 'ranker'"})

    def training_of(self, model: str) -> TrainingSettings:
        """Settings of the training of one of the two models."""
        return self.training.chosen(model={"name": model})


STAGES = ("Qscore", "pre-ranker", "ranker")


def trained(settings: CascadeSettings, data: CTRData, progress: Progress, *, name: str, model: str, seed: int) -> Path:
    """The run folder of a model with the table ``name``, trained where it is missing.

    Raises
    ------
    UserError
        If the folder is a run with other settings.
    """
    run = Path(settings.cache) / f"{name}-{model}-{seed}"
    training = settings.training_of(model)
    shared = {one.name: getattr(training, one.name) for one in fields(training)}
    table = settings.tables[name]
    wanted = RunSettings(**shared, dataset=settings.dataset, out=str(run), table=table, seed=seed)
    if not run.exists():
        train(wanted, progress, data)
    elif run_settings(run) != wanted:
        raise UserError(f"{run} was trained with other settings; remove it or name another cache")
    return run


def logged_requests(data: CTRData, count: int) -> np.ndarray:
    """The first impression of ``count`` requests of the test split, spread evenly over it."""
    rows = data.rows["test"]
    request = data.dataset.impressions["request"].to_numpy()[rows]
    first = rows[np.sort(np.unique(request, return_index=True)[1])]
    return first[np.unique(np.linspace(0, len(first) - 1, count).astype(int))]


def _interval(values: list[list[float]], level: float = 0.95, draws: int = 1000) -> dict[str, float] | None:
    """Mean over seeds and requests (S, R) of those that count (not nan), with the interval of a bootstrap over both.

    None where there are none.
    """
    shares = np.array(values)
    if np.isnan(shares).all():
        return None
    rng, (seeds, requests) = np.random.default_rng(0), shares.shape
    drawn = (shares[rng.integers(seeds, size=seeds)][:, rng.integers(requests, size=requests)] for _ in range(draws))
    means = [np.nanmean(one) for one in drawn if not np.isnan(one).all()]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(np.nanmean(shares)), "low": float(low), "high": float(high)}


def measure(cascades: Sequence[Cascade], rows: np.ndarray, advance: Callable[[], None]) -> dict[str, Any]:
    """What the stages keep and what they cost, over the requests of some impressions.

    Parameters
    ----------
    cascades : sequence of Cascade
        One for each seed.
    rows : numpy.ndarray
        The impressions.
    advance : callable
        Called after each request of each cascade.

    Returns
    -------
    dict
        ``candidates``, their mean number; ``ms_p50`` and ``ms_p99`` of a request, and ``whole_ms_p50`` of the ranker on
        all candidates, in milliseconds; ``stages``, of each: name, kept, survival and survival_new (mean, low, high),
        ms_p50, ms_p99, operations.
    """
    observed = []
    for cascade in cascades:
        cascade.run(int(rows[0]))  # the first call of a kernel is slower than all others
        own = []
        for row in rows.tolist():
            own.append(_observe(cascade, row))
            advance()
        observed.append(own)
    every = [one for own in observed for one in own]
    operations = cascades[0].operations(int(rows[len(rows) // 2]))
    return {
        "candidates": float(np.mean([one.candidates for one in every])),
        **_latency([sum(one.seconds) for one in every]),
        "whole_ms_p50": float(1000 * np.quantile([one.whole for one in every], 0.5)),
        "stages": [
            {
                "name": name,
                "kept": cascades[0].keep[stage],
                "survival": _interval([[one.survival[stage] for one in own] for own in observed]),
                "survival_new": _interval([[one.survival_new[stage] for one in own] for own in observed]),
                **_latency([one.seconds[stage] for one in every]),
                "operations": operations[stage],
            }
            for stage, name in enumerate(STAGES)
        ],
    }


class Observed(NamedTuple):
    """A request that went through a cascade; lists have an entry a stage.

    Attributes
    ----------
    candidates : int
        Items that there were.
    whole : float
        Seconds of the ranker on all of them.
    seconds : list of float
        Of each stage.
    survival, survival_new : list of float
        Shares of the best, and of the best of those never shown in training (nan where there are none), that are kept.
    """

    candidates: int
    whole: float
    seconds: list[float]
    survival: list[float]
    survival_new: list[float]


def _observe(cascade: Cascade, row: int) -> Observed:
    """The request of an impression through a cascade, and ranked as a whole."""
    items = cascade.candidates(row)
    kept_by_stage, seconds = cascade.run(row)
    begun = time.perf_counter()
    everything = cascade.ranker_scores(row, items)
    whole = time.perf_counter() - begun
    top = items[best(everything, cascade.keep[2])]
    new = top[~cascade.data.warm[top]]
    survival = [float(np.isin(top, kept).mean()) for kept in kept_by_stage]
    survival_new = [float(np.isin(new, kept).mean()) if len(new) else np.nan for kept in kept_by_stage]
    return Observed(len(items), whole, seconds, survival, survival_new)


def _latency(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile of some requests' seconds, in milliseconds."""
    p50, p99 = 1000 * np.quantile(seconds, [0.5, 0.99])
    return {"ms_p50": float(p50), "ms_p99": float(p99)}


def _tested(runs: list[Path]) -> dict[str, float]:
    """GAUC on the test split of the trainings of some seeds: mean, lowest and highest."""
    values = [read_json(folder / "summary.json")["metrics"]["test"]["all"]["gauc"] for folder in runs]
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def run(settings: CascadeSettings, progress: Progress) -> tuple[dict[str, Any], CTRData]:
    """The figures of every table: those of :func:`measure`, and the GAUC of each stage on the test split."""
    data = load_ctr_data(settings.dataset, settings.training.data)
    torch.set_num_threads(settings.training.optim.threads)
    scores = qscore(data, settings.weight)
    test = data.rows["test"]
    of_qscore = gauc(data.click[test], scores[data.item[test]], data.user[test])
    rows = logged_requests(data, settings.requests)
    found = {}
    for name in settings.tables:
        pre, ranker = (
            [trained(settings, data, progress, name=name, model=model, seed=seed) for seed in settings.seeds]
            for model in (settings.pre, settings.ranker)
        )
        cascades = [
            Cascade(data, scores, *(load_run(folder, data)[0] for folder in own), settings.keep)
            for own in zip(pre, ranker, strict=True)
        ]
        task = progress.add_task(f"requests, {name}", total=len(rows) * len(cascades))
        figures = measure(cascades, rows, lambda task=task: progress.advance(task))
        gaucs = [{"mean": of_qscore, "low": of_qscore, "high": of_qscore}, _tested(pre), _tested(ranker)]
        for stage, value in zip(figures["stages"], gaucs, strict=True):
            stage["gauc"] = value
        found[name] = figures
    return {"requests": len(rows), "tables": found}, data


def _verdict(figures: dict[str, Any], settings: CascadeSettings) -> list[str]:
    """What each table's cascade keeps, how it ranks and what it takes."""
    lines = []
    for name, own in figures["tables"].items():
        last, ranked = own["stages"][1]["survival"], own["stages"][2]["gauc"]["mean"]
        lines.append(
            f"{name}: {last['mean']:.0%} ({last['low']:.0%} to {last['high']:.0%}) of the best "
            f"{settings.keep[2]} of {own['candidates']:,.0f} ads pass both filters; pre-ranker GAUC "
            f"{own['stages'][1]['gauc']['mean']:.4f}, ranker {ranked:.4f}; {own['ms_p50']:.1f} ms a request "
            f"(p99 {own['ms_p99']:.1f}) instead of {own['whole_ms_p50']:.1f} for ranking every ad."
        )
    return lines


def write_report(figures: dict[str, Any], data: CTRData, settings: CascadeSettings, command: str) -> list[str]:
    """Write report.html, report.md and figures.json; returns the verdict of each table.

    Parameters
    ----------
    figures : dict
        Of :func:`run`.
    data : CTRData
        The dataset.
    settings : CascadeSettings
        Of the cascade.
    command : str
        What made the figures.
    """
    figures["settings"] = asdict(settings)
    figures["made_by"] = made_by(command)
    lines = {
        name: [(own["candidates"], 1.0), *((stage["kept"], stage["survival"]["mean"]) for stage in own["stages"])]
        for name, own in figures["tables"].items()
    }
    described = "; ".join(
        f"{name}: " + ", ".join(f"{y:.0%} at {x:.0f}" for x, y in line) for name, line in lines.items()
    )
    context = {
        "verdict": _verdict(figures, settings),
        "figures": figures,
        "settings": settings,
        "picture": survival(lines, "share of the best that is kept", described),
        "dataset": data.dataset.info,
    }
    out = Path(settings.out)
    for name in ("report.html", "report.md"):
        write_page(out / name, f"cascade.{name.split('.')[1]}.j2", context)
    write_json(out / "figures.json", figures)
    return context["verdict"]
