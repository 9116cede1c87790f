"""How well the true probabilities rank clicks and conversions, by slice: an upper bound for any model."""

from __future__ import annotations

from typing import Any

import polars as pl


def within_page_auc(log: pl.DataFrame, score: str, label: str) -> float | None:
    """Mean AUC within page views (column ``request``) with both labels; ties count half. None if there are none."""
    ranked = log.select("request", label, rank=pl.col(score).rank("average").over("request"))
    ones, n = pl.col(label).sum().cast(pl.Float64), pl.len().cast(pl.Float64)
    above = (pl.col("rank") * pl.col(label)).sum() - ones * (ones + 1) / 2
    pages = ranked.group_by("request").agg(auc=above / (ones * (n - ones)), both=(ones > 0) & (ones < n))
    return pages.filter("both")["auc"].mean()


def auc(log: pl.DataFrame, score: str, label: str) -> float | None:
    """AUC over all rows by the rank sum; ties count half. None where only one label occurs."""
    ones, n = int(log[label].sum()), len(log)
    if ones in (0, n):
        return None
    ranks = log.select((pl.col(score).rank("average") * pl.col(label)).sum()).item()
    return (ranks - ones * (ones + 1) / 2) / (ones * (n - ones))


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
    log : request, item, scene, split, click, conversion, oracle and oracle_conversion, one row per impression

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
