"""Parts of a split in which an embedding may help more or less: by item age, popularity, category, history length."""

from __future__ import annotations

import numpy as np
import polars as pl

from downstream.data.ctr_data import CTRData

CATEGORIES = 8
Slices = dict[str, dict[str, np.ndarray]]


def _ranges(values: np.ndarray, edges: list[float], unit: str) -> dict[str, np.ndarray]:
    """Masks of ``edges[i] <= value < edges[i + 1]``, the last one open, named by the whole numbers they hold."""
    masks = {}
    for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
        if high == np.inf:
            name = f"{low:,g} or more"
        else:
            name = f"{low:,g}" if high == low + 1 else f"{low:,g} to {high - 1:,g}"
        masks[f"{name} {unit}"] = (values >= low) & (values < high)
    return masks


def _quantile_edges(values: np.ndarray, parts: int) -> list[float]:
    """Edges from 1 up that cut the positive integers among ``values`` into parts of about equal numbers of values."""
    positive = values[values > 0]
    if not len(positive):
        return []
    inner = np.quantile(positive, np.arange(1, parts) / parts).round().astype(int)
    return [float(edge) for edge in np.unique([1, *inner])]


def scene_slices(data: CTRData, split: str) -> dict[str, np.ndarray]:
    """Scene -> mask over the rows of ``split``; nothing where the log has no scenes."""
    impressions = data.dataset.impressions
    if "scene" not in impressions.columns:
        return {}
    scene = impressions["scene"].cast(pl.String).fill_null("none").to_numpy()[data.rows[split]]
    return {str(name): scene == name for name in np.unique(scene)}


def slices(data: CTRData, split: str) -> Slices:
    """dimension -> part -> mask over the rows of ``split``; parts without impressions are left out.

    "item age": days between the item's first appearance and the impression, where the log has times. "popularity":
    training impressions of the item; 0 are the cold items. "history length": clicks of the user before the impression.
    "category": those with most impressions in the split; the rest is "other". "scene": every one. The choice of the
    edges is ours.
    """
    rows = data.rows[split]
    item = data.item[rows]
    shown = np.bincount(data.item[data.rows["train"]], minlength=len(data.item_code))[item]
    found: Slices = {
        "popularity": _ranges(shown, [0, *_quantile_edges(shown, 4)], "training impressions"),
        "history length": _ranges(data.clicks_before[rows], [0, 1, 5, 20, 50], "clicks"),
    }
    items, impressions = data.dataset.items, data.dataset.impressions
    if data.dataset.day:
        first = items["first_seen"].cast(pl.Float64).to_numpy()[item]
        age = (impressions["timestamp"].to_numpy()[rows] - first) / data.dataset.day
        dated = np.isfinite(age)
        if (age[dated] >= 1).any():
            found["item age"] = _ranges(np.where(dated, np.maximum(age, 0), np.nan), [0, 1, 3, 7, 14, 30, 90], "days")
            found["item age"]["unknown"] = ~dated
    if "category" in items.columns:
        category = items["category"].cast(pl.String).fill_null("none").to_numpy()[item]
        names, counts = np.unique(category, return_counts=True)
        top = names[np.argsort(-counts, kind="stable")][:CATEGORIES]
        found["category"] = {str(name): category == name for name in top}
        found["category"]["other"] = ~np.isin(category, top)
    if scenes := scene_slices(data, split):
        found["scene"] = scenes
    return {dimension: {name: mask for name, mask in parts.items() if mask.any()} for dimension, parts in found.items()}
