"""What objectives share: their place in the trainer, a temperature, and guards against collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jsonargparse.typing import PositiveFloat
from torch import Tensor, nn

from data_tools.common.checks import Checked
from pretrain.objectives.parts.guards import Guards, guard_losses
from pretrain.objectives.parts.losses import Term

# What a batch says of each of its pictures.
OF_PICTURES = ("images", "image_item", "image_copy_of")
LEAST_TEMPERATURE = 0.01  # CLIP's largest logit scale, 100


@dataclass(frozen=True)
class Context:
    """What an objective may use of a run besides its own options.

    Attributes
    ----------
    encoder : nn.Module
        Pictures, uint8 (N, 3, S, S), to embeddings (N, D), with its initial weights; ``encoder.dimensions`` is D.
    data : str or None
        Folder of shards.
    history, slots : int
        Clicks and page-view slots of a request in a batch.
    guards : Guards
        Terms against collapse.
    parts : dict of Objective
        Those that the objective is made of, by name (see :meth:`Objective.made_of`).
    """

    encoder: nn.Module
    data: str | None = None
    history: int = 30
    slots: int = 10
    guards: Guards = field(default_factory=Guards)
    parts: Mapping[str, Objective] = field(default_factory=dict)


def catalogue_from(batch: dict[str, Tensor]) -> int:
    """The first of a batch's pictures that is of the catalogue; those before it are of requests."""
    if "catalogue" in batch:
        return int(batch["catalogue"])
    return len(batch["image_item"]) if "history" in batch else 0


class Objective(nn.Module):
    """Base of all objectives: embeddings (N, D) of a batch's distinct pictures -> named terms.

    An objective with options names them in a dataclass ``Settings``.

    Attributes
    ----------
    batches : str
        "requests", "items" for catalogue pictures, or "both" (see ``pretrain.data.stream``).
    views : int
        How often a batch of catalogue pictures holds each, augmented each time.
    catalogue : int
        With "both", catalogue pictures a step over all processes; 0 for as many as requests.
    annotate : callable or None
        What else a batch of catalogue pictures holds: records (n) -> dict of tensors (n, ...).
    """

    batches = "requests"
    views = 2
    catalogue = 0
    annotate: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__()
        self.options, self.guards = options, context.guards

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """The objective's own terms."""
        raise NotImplementedError

    def after_step(self, encoder: nn.Module) -> None:
        """What remains to be done once the encoder's weights have been updated."""

    def forward(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """The objective's own terms and those of the guards; near-duplicates are one item to both."""
        if "image_copy_of" in batch:
            batch = batch | {"image_item": batch["image_copy_of"]}
        return self.terms(embeddings, batch) | guard_losses(self.guards, embeddings, batch)

    @classmethod
    def made_of(cls, options: Any) -> list[str]:
        """Names of the objectives that it is made of, whose options it uses."""
        return []

    @classmethod
    def collapse_causes(cls, options: Any) -> list[str]:
        """What in the objective, or in its options, is known to let embeddings collapse."""
        return []

    @classmethod
    def attention_temperature(cls, options: Any) -> float | None:
        """Temperature of projection-free attention over the history, for the run's page; None without attention."""
        return None


@dataclass(frozen=True)
class Temperature(Checked):
    """Options of contrastive objectives.

    Attributes
    ----------
    temperature : float
        Temperature of the contrastive softmax.
    learn_temperature : bool
        Learn the temperature, from the given value on; it never falls below 0.01.
    """

    temperature: PositiveFloat = 0.05
    learn_temperature: bool = False


class Contrastive(Objective):
    """Base of objectives with a contrastive softmax."""

    def __init__(self, options: Temperature, context: Context) -> None:
        super().__init__(options, context)
        if options.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))

    @property
    def temperature(self) -> float | Tensor:
        """tau of the contrastive softmax."""
        if self.options.learn_temperature:
            return self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)
        return self.options.temperature
