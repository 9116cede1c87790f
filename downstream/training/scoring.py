"""Scores of a CTR model and the metrics of a split."""

from __future__ import annotations

import math

import numpy as np
import torch
from accelerate import Accelerator

from downstream.data.ahead import batches_ahead, loader_threads
from downstream.data.ctr_data import CTRData
from downstream.data.tensors import tensors
from downstream.layers.click_model import ClickModel
from downstream.statistics.metrics import all_metrics


def score(
    model: ClickModel, data: CTRData, rows: np.ndarray, batch_size: int, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Task -> probabilities of some impressions, float32 (len(rows)), computed by all processes together."""
    count = accelerator.num_processes
    padded = np.resize(rows, math.ceil(len(rows) / count) * count)
    own = padded[accelerator.process_index :: count]
    model.eval()
    batches = (own[start : start + batch_size] for start in range(0, len(own), batch_size))
    threads = loader_threads(None, count)
    with torch.inference_mode():
        parts = [
            model.probabilities(tensors(batch, accelerator.device)) for batch in batches_ahead(data, batches, threads)
        ]
    found = {}
    for task in parts[0]:
        gathered = accelerator.gather(torch.cat([part[task] for part in parts]))
        found[task] = gathered.reshape(count, -1).T.flatten()[: len(rows)].cpu().numpy()
    return found


def split_metrics(data: CTRData, split: str, scores: dict[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """The metrics of the clicks in each slice, and of the conversions where the model predicts them.

    "conversion": click and purchase, over all impressions (pCTCVR); "after click": purchase, over the clicks (pCVR).
    """
    rows = data.rows[split]
    found = {
        name: all_metrics(data.click[rows][part], scores["click"][part], data.user[rows][part])
        for name, part in data.slices(split).items()
    }
    if "conversion" in scores:
        known, clicked = ~np.isnan(data.conversion[rows]), data.click[rows] == 1
        for name, task, part in (("conversion", "conversion", known), ("after click", "purchase", known & clicked)):
            found[name] = all_metrics(data.conversion[rows][part], scores[task][part], data.user[rows][part])
    return found
