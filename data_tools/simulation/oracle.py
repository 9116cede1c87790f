"""How well the true probabilities rank clicks and conversions, by slice: an upper bound for any model."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from data_tools.measures.group_auc import group_auc


def within_page_auc(log: pl.DataFrame, score: str, label: str) -> float | None:
    """Mean AUC within page views (column ``request``) that hold both labels; ties count half. None if there is none."""
    pages = group_auc(log[label].to_numpy(), log[score].to_numpy(), log["request"].to_numpy())
    return pages.mean("equal") if pages.defined.any() else None


def auc(log: pl.DataFrame, score: str, label: str) -> float | None:
    """AUC over all rows; ties count half. None where only one label is there."""
    whole = group_auc(log[label].to_numpy(), log[score].to_numpy(), np.zeros(len(log), dtype=np.int8))
    return float(whole.auc[0]) if whole.defined.any() else None


def _figures(log: pl.DataFrame) -> dict[str, Any]:
    clicked = log.filter(pl.col("click") == 1)
    both = log.with_columns(both=pl.col("oracle") * pl.col("oracle_conversion"))
    return {
        "impressions": len(log),
        "click_rate": log["click"].mean(),
        "auc": auc(log, "oracle", "click"),
        "page_auc": within_page_auc(log, "oracle", "click"),
        "conversions": int(log["conversion"].sum()),
        "conversion_auc_given_click": auc(clicked, "oracle_conversion", "conversion"),
        "conversion_auc": auc(both, "both", "conversion"),
    }


def oracle_by_slice(log: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Figures of the test split: all, warm (items shown in training), cold, and each scene.

    Parameters
    ----------
    log : polars.DataFrame
        With request, item, scene, split, click, conversion, oracle and oracle_conversion, one row per impression.

    Returns
    -------
    dict
        Slice -> impressions, click_rate, auc, page_auc (within page views), conversions, conversion_auc (of
        oracle * oracle_conversion over all) and conversion_auc_given_click; an AUC is None where one label is missing.
    """
    trained = log.filter(pl.col("split") == "train")["item"].unique()
    test = log.filter(pl.col("split") == "test")
    warm = pl.col("item").is_in(trained.implode())
    slices = {"all": test, "warm": test.filter(warm), "cold": test.filter(~warm)}
    slices |= {f"scene {scene}": test.filter(pl.col("scene") == scene) for scene in test["scene"].unique().sort()}
    return {name: _figures(part) for name, part in slices.items()}
