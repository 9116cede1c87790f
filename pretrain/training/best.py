"""The weights of a run that are kept: chosen by the within-page AUC on the validation time range."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.common.files import read_json, write_json
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.training.runs import save_tensors


@dataclass
class Choice:
    """Which of several weights to keep, offered one after the other: the one-standard-error rule.

    One slice of the validation page views decides. Where it has few page views, though, the highest of several AUCs is
    mostly luck. Weights whose AUC there is within one standard error of the highest count as equal (Breiman et al.,
    Classification and Regression Trees, 1984, section 3.4.3), and among equals the AUC of the other slice decides; to
    let it decide is ours, and so is that no weights below the first, the initial ones, are ever kept.

    Attributes
    ----------
    auc, other : float
        Of the weights to keep, on the slice that decides and on the other; -inf before the first, and ``other`` where
        that slice has no page views.
    step : int
        Their step; -1 before the first.
    highest, bar : float
        On the slice that decides: the highest AUC so far, and the lowest that counts as equal to it.
    first : float
        Of the first weights; nan before them.
    """

    auc: float = -math.inf
    other: float = -math.inf
    step: int = -1
    highest: float = -math.inf
    bar: float = -math.inf
    first: float = math.nan

    def offer(self, step: int, figures: dict[str, dict[str, float]], decides: str) -> bool:
        """Whether to keep these weights, from their :func:`pretrain.evaluation.page_auc.page_auc` by slice.

        The other slice alone decides where the wanted one has no page views; without any, the latest weights are kept.
        """
        judged = {name: part for name, part in figures.items() if part["pages"]} or {decides: {"auc": float(step)}}
        own = judged.pop(decides) if decides in judged else judged.popitem()[1]
        auc, other = own["auc"], max((part["auc"] for part in judged.values()), default=-math.inf)
        self.first = auc if math.isnan(self.first) else self.first
        if auc > self.highest:
            slack = own["standard_error"] if judged and own["pages"] > 1 else 0.0
            self.highest, self.bar = auc, max(auc - slack, self.first)
        better = self.auc < self.bar or (other, auc) > (self.other, self.auc)
        keep = auc >= self.bar and better
        if keep:
            self.auc, self.other, self.step = auc, other, step
        return keep


class Best:
    """Keeps ``best.safetensors`` and ``best.json`` of a run.

    Parameters
    ----------
    run : path
        Run folder.
    choose_on : str
        Slice that decides: "cold" or "warm".

    Attributes
    ----------
    choice : Choice
        Which weights are kept, and why.
    """

    def __init__(self, run: Path, choose_on: str) -> None:
        self.run, self.choose_on = run, choose_on
        made = read_json(run / "best.json") if (run / "best.json").exists() else {}
        self.choice = Choice(**{name: value for name, value in made.items() if value is not None})

    def offer(self, encoder: ImageEncoder, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Keep the encoder if :class:`Choice` does."""
        if self.choice.offer(step, figures, self.choose_on):
            save_tensors(self.run / "best.safetensors", encoder.state_dict())
        write_json(self.run / "best.json", asdict(self.choice))
