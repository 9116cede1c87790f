"""The best weights so far, by the within-page AUC on the validation time range."""

from __future__ import annotations

import math
from pathlib import Path

from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import write_tensors
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.page_auc import chosen_auc


class Best:
    """Keeps ``best.safetensors`` and ``best.json`` of a run.

    Parameters
    ----------
    run : path
        Run folder.
    choose_on : str
        Slice that the weights are chosen on: "cold" or "warm".

    Attributes
    ----------
    auc : float
        Of the best weights; -inf before the first.
    step : int
        At which they were found; -1 before the first.
    """

    def __init__(self, run: Path, choose_on: str) -> None:
        self.run, self.choose_on = run, choose_on
        self.auc, self.step = -math.inf, -1
        if (run / "best.json").exists():
            best = read_json(run / "best.json")
            self.auc, self.step = best["auc"], best["step"]

    def offer(self, encoder: ImageEncoder, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Keep the encoder if it beats the best; the other slice counts where the wanted one has no page views.

        Without any page view to judge by, the latest weights are kept.
        """
        auc = chosen_auc(figures, self.choose_on, otherwise=float(step))
        if auc > self.auc:
            self.auc, self.step = auc, step
            write_tensors(self.run / "best.safetensors", encoder.state_dict())
            write_json(self.run / "best.json", {"auc": auc, "step": step})
