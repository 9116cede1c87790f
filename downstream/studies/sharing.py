"""Impressions that ways of sharing are measured on, and the models that share nothing: one a task, or one a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from data_tools.common.cli import UserError
from downstream.data.ctr_data import CTRData
from downstream.data.segments import scene_slices

ALONE = "embedding_mlp"


@dataclass(frozen=True)
class Part:
    """Impressions of the test split that contestants are measured on: places in the split, labels, and a task."""

    place: np.ndarray
    label: np.ndarray
    task: str = "click"


# Trains a model of a name on data for a seed; gives task -> its probabilities of the rows of the test split.
Train = Callable[[str, CTRData], dict[str, np.ndarray]]
Scores = dict[str, np.ndarray]


def _on(data: CTRData, keep: np.ndarray) -> CTRData:
    """The data with those impressions only that the mask keeps."""
    return replace(data, rows={split: rows[keep[rows]] for split, rows in data.rows.items()})


def _of_conversions(data: CTRData) -> CTRData:
    """The data with the conversions as their clicks, where they are known; histories stay those of the clicks."""
    return _on(replace(data, click=np.nan_to_num(data.conversion), conversion=None), ~np.isnan(data.conversion))


def task_parts(data: CTRData) -> dict[str, Part]:
    if data.conversion is None:
        raise UserError(f"{data.dataset.folder} has no column 'conversion'; kind 'tasks' needs it")
    rows = data.rows["test"]
    click, conversion = data.click[rows], data.conversion[rows]
    known = np.flatnonzero(~np.isnan(conversion))
    clicked = known[click[known] == 1]
    return {
        "conversions, all impressions": Part(known, conversion[known], "conversion"),
        "purchases, clicks": Part(clicked, conversion[clicked], "purchase"),
        "clicks": Part(np.arange(len(rows)), click),
    }


def separate_tasks(data: CTRData, train: Train) -> Iterator[tuple[str, Scores]]:
    """One model a task, each alone."""
    rows = data.rows["test"]
    conversions = _of_conversions(data)
    direct, clicks = train(ALONE, conversions)["click"], train(ALONE, data)["click"]
    # Trained on the clicks; scores are of all impressions, whose clicks are the only ones that count for purchases.
    on_clicks = _on(conversions, data.click == 1)
    on_clicks = replace(on_clicks, rows={**on_clicks.rows, "test": rows})
    purchase = train(ALONE, on_clicks)["click"]
    known = np.flatnonzero(~np.isnan(data.conversion[rows]))
    everywhere = np.full(len(rows), np.nan, dtype=np.float32)
    everywhere[known] = direct
    yield "separate", {"click": clicks, "purchase": purchase, "conversion": everywhere}
    yield "separate, product", {"click": clicks, "purchase": purchase, "conversion": clicks * purchase}


def scene_parts(data: CTRData) -> dict[str, Part]:
    if data.scene is None:
        raise UserError(f"{data.dataset.folder} has no column 'scene'; kind 'scenes' needs it")
    click = data.click[data.rows["test"]]
    masks = {"all": np.ones(len(click), dtype=bool), **scene_slices(data, "test")}
    return {name: Part(np.flatnonzero(mask), click[mask]) for name, mask in masks.items()}


def separate_scenes(data: CTRData, train: Train) -> Iterator[tuple[str, Scores]]:
    """One model a scene; and one model of all that does not see the scene."""
    rows = data.rows["test"]
    scores = np.full(len(rows), np.nan, dtype=np.float32)
    for scene in np.unique(data.scene[rows]):
        keep = data.scene == scene
        scores[keep[rows]] = train(ALONE, _on(data, keep))["click"]
    yield "separate", {"click": scores}
    sizes = {name: size for name, size in data.sizes.items() if name != "scene"}
    yield "merged", {"click": train(ALONE, replace(data, scene=None, sizes=sizes))["click"]}


KINDS = {"tasks": (task_parts, separate_tasks), "scenes": (scene_parts, separate_scenes)}
