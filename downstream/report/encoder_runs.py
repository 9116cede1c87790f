"""How the encoders of a comparison were pre-trained, read from their run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from data_tools.common.files import read_json, read_json_lines
from data_tools.common.pages import MISSING
from downstream.comparison.figures import frame
from downstream.comparison.sources import Source
from downstream.report.words import Names

# What a log line holds of each curve, by the curve's name.
CURVES = {
    "Validation: page AUC of SimScore, items never shown in training": lambda line: line.get("valid_page_auc_cold"),
    "Loss minus chance": lambda line: line["loss"] - line["chance"] if "loss" in line else None,
    "Effective rank of the embeddings in a batch": lambda line: line.get("effective_rank"),
}
RECORD = ("summary.json", "run.json", "log.jsonl")


def encoder_runs(sources: dict[str, Source]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every run that trained an encoder of the comparison, in the order of the sources; runs without a record are not.

    Returns
    -------
    runs : polars.DataFrame
        source, run, seed, commit (name, folder, and what made it), objective, image_size, rows, steps, best_step (what
        was trained, and the step whose weights the source takes), seconds and images_per_second of training,
        process_memory_mib and gpu_memory_mib (peaks; null of runs that did not record them).
    curves : polars.DataFrame
        source, run, curve (a name of ``CURVES``), step, value.
    """
    trained = {name: source for name, source in sources.items() if source.weights != "initial"}
    recorded = [(name, source, run) for name, source in trained.items() for run in source.runs if _recorded(run)]
    runs, curves = [], []
    for name, source, run in recorded:
        own = {"source": name, "run": str(run)}
        lines = read_json_lines(run / "log.jsonl")
        record = _record(run, lines)
        runs.append(own | record | ({"best_step": record["steps"]} if source.weights == "last" else {}))
        for curve, value in CURVES.items():
            points = [(line["step"], value(line)) for line in lines]
            curves += [own | {"curve": curve, "step": step, "value": y} for step, y in points if y is not None]
    return frame("encoder_runs", runs), frame("encoder_curves", curves)


def _recorded(run: Path) -> bool:
    return all((run / name).exists() for name in RECORD)


def _record(run: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
    summary, made = read_json(run / "summary.json"), read_json(run / "run.json")
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    memory = summary.get("peak_memory_mib") or {}
    return {
        "commit": made["commit"],
        "image_size": made["settings"]["encoder"]["image_size"],
        "rows": made["settings"]["batch"]["rows"],
        **{key: summary.get(key) for key in ("objective", "seed", "steps", "best_step", "seconds")},
        "process_memory_mib": memory.get("process"),
        "gpu_memory_mib": memory.get("gpu"),
        "images_per_second": speeds[-1] if speeds else None,
    }


COLUMNS = (
    *("source", "run", "objective", "seed", "commit", "image size", "rows a step", "best step"),
    *("seconds", "images/s", "peak memory, MiB", "of a GPU, MiB"),
)


def training_rows(runs: pl.DataFrame, names: Names) -> list[list[str]]:
    """One line a run that trained an encoder: what was trained, where, by which commit, and what it cost."""
    cost = ("seconds", "images_per_second", "process_memory_mib", "gpu_memory_mib")
    lines = []
    for one in runs.iter_rows(named=True):
        what = [names(one["source"]), one["run"], Names({})(one["objective"]), one["seed"], one["commit"]]
        size = [f"{one['image_size']} px", f"{one['rows']:,}", f"{one['best_step']} of {one['steps']}"]
        spent = [MISSING if one[key] is None else f"{one[key]:,.0f}" for key in cost]
        lines.append([str(value) for value in (*what, *size, *spent)])
    return lines
