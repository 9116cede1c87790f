"""How the encoders of a comparison were pre-trained, read from their run folders: curves by step, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.common.charts import curves
from data_tools.common.files import read_json, read_json_lines
from downstream.comparison.sources import Source

# Key of a log line: page AUC on items not in training; runs of earlier versions call it unseen.
COLD, FORMER_COLD = "valid_page_auc_cold", "valid_page_auc_unseen"
# What a log line holds of each curve, by the curve's name.
CURVES = {
    "Validation: page AUC of SimScore, items never shown": lambda line: line.get(COLD, line.get(FORMER_COLD)),
    "Loss, less that of knowing nothing": lambda line: line["loss"] - line["chance"] if "loss" in line else None,
    "Effective rank of the embeddings in a batch": lambda line: line.get("effective_rank"),
}
RECORD = ("summary.json", "run.json", "log.jsonl")


def pretraining(sources: dict[str, Source]) -> list[dict[str, Any]]:
    """Every run that trained an encoder of the comparison, in the order of the sources; runs without a record are not.

    Returns
    -------
    list of dict with
        source, run, seed, commit : name, folder, and what made it
        objective, image_size, rows, steps, best_step : what was trained, and the step whose weights are exported
        seconds, images_per_second : of training
        peak_memory_mib : of the training process ("process") and on a GPU ("gpu"); None of runs that did not record it
        curves : name of a curve -> [[step, value], ...]
    """
    trained = {name: source.runs for name, source in sources.items() if source.weights == "trained"}
    recorded = [(name, run) for name, runs in trained.items() for run in runs if _recorded(run)]
    return [{"source": name, "run": str(run), **_record(run)} for name, run in recorded]


def _recorded(run: Path) -> bool:
    return all((run / name).exists() for name in RECORD)


def _record(run: Path) -> dict[str, Any]:
    summary, made = read_json(run / "summary.json"), read_json(run / "run.json")
    lines = read_json_lines(run / "log.jsonl")
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    points = {name: [(line["step"], told(line)) for line in lines] for name, told in CURVES.items()}
    return {
        "commit": made["commit"],
        "image_size": made["settings"]["encoder"]["image_size"],
        "rows": made["settings"]["batch"]["rows"],
        **{key: summary.get(key) for key in ("objective", "seed", "steps", "best_step", "seconds", "peak_memory_mib")},
        "images_per_second": speeds[-1] if speeds else None,
        "curves": {name: [point for point in own if point[1] is not None] for name, own in points.items()},
    }


def training_curves(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what, SVG) of the encoders' trainings by step, of each source's first run; nothing of runs that drew none."""
    panels = []
    for what in CURVES:
        lines: dict[str, Any] = {}
        for one in runs:
            if points := one["curves"][what]:
                lines.setdefault(one["source"], tuple(zip(*points, strict=True)))
        if lines:
            panels.append((what, curves(lines, "step", "", f"{what} by step: {', '.join(lines)}")))
    return panels


COLUMNS = (
    *("source", "run", "objective", "seed", "commit", "image size", "rows a step", "best step"),
    *("seconds", "images/s", "peak memory, MiB", "of a GPU, MiB"),
)


def training_rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One line a run that trained an encoder: what was trained, where, by which commit, and what it cost."""

    def told(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    lines = []
    for one in runs:
        memory = one["peak_memory_mib"] or {}
        what = [one["source"], one["run"], one["objective"], one["seed"], one["commit"]]
        size = [f"{one['image_size']} px", f"{one['rows']:,}", f"{one['best_step']} of {one['steps']}"]
        cost = [
            told(one["seconds"]),
            told(one["images_per_second"]),
            *(told(memory.get(k)) for k in ("process", "gpu")),
        ]
        lines.append([str(value) for value in (*what, *size, *cost)])
    return lines
