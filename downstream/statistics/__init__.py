"""Metrics, and the intervals of differences between models."""

from downstream.statistics.metrics import (
    all_metrics,
    auc,
    calibration,
    gauc,
    group_auc,
    log_loss,
    ndcg,
    within_page_auc,
)

__all__ = ["all_metrics", "auc", "calibration", "gauc", "group_auc", "log_loss", "ndcg", "within_page_auc"]
