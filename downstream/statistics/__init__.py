"""Metrics, and the intervals of differences between models."""

from downstream.statistics.metrics import (
    all_metrics,
    auc,
    calibration,
    gauc,
    log_loss,
    ndcg,
)

__all__ = ["all_metrics", "auc", "calibration", "gauc", "log_loss", "ndcg"]
