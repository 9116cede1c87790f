"""Charts of a run's log: losses against chance, collapse figures, validation."""

from __future__ import annotations

import math
from typing import Any

from data_tools.common.charts import curves
from pretrain.evaluation.collapse import HEALTHY
from pretrain.evaluation.page_auc import SLICES

FIGURES = {
    "effective_rank": "Effective rank",
    "spread": "Spread",
    "mean_cosine": "Mean cosine of pairs",
    "uniformity": "Uniformity",
    "alignment": "Alignment of consecutive clicks",
    "dead_share": "Share of dead dimensions",
}


def _points(log: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key of the log, where it was logged and is a number."""
    lines = [line for line in log if line.get(key) is not None and math.isfinite(line[key])]
    return [line["step"] for line in lines], [line[key] for line in lines]


def loss_charts(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name, chart) of the whole loss and of each term, against its chance."""
    logged = [line for line in log if "loss" in line]
    names = [name for name in (logged[-1] if logged else {}) if name.endswith("_loss")]
    wanted = [("loss", "chance")] if logged else []
    if len(names) > 1:  # an only term is the loss
        wanted += [(name, f"{name}_chance") for name in names]
    return [
        (
            name.replace("_", " "),
            curves(
                {"trained": _points(logged, name), "chance": _points(logged, chance)},
                "step",
                "",
                f"{name} and its chance by step",
            ),
        )
        for name, chance in wanted
    ]


def collapse_charts(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name with its healthy range, chart) of each figure of the collapse watch that was logged."""
    charts = []
    for name, words in FIGURES.items():
        points = _points(log, name)
        if not points[0]:
            continue
        low, high, _ = HEALTHY[name]
        limits = [(limit, side) for limit, side in ((low, "at least"), (high, "at most")) if abs(limit) < 1e9]
        shown = [(limit, side) for limit, side in limits if limit not in (-1.0, 0.0)]
        healthy = ", ".join(f"{side} {limit:g}" for limit, side in shown)
        svg = curves({words: points}, "step", "", words, limits=[limit for limit, _ in shown])
        charts.append((f"{words} (healthy: {healthy})", svg))
    return charts


def validation_chart(log: list[dict[str, Any]], best_step: int) -> str:
    """Within-page AUC of each slice by step, with the step whose weights were kept."""
    lines = {f"{name} items": _points(log, f"valid_page_auc_{name}") for name in SLICES}
    lines = {name: points for name, points in lines.items() if points[0]}  # a slice may have no page views
    if not lines:
        return ""
    return curves(lines, "step", "", f"within-page AUC by step: {', '.join(lines)}", mark=best_step)
