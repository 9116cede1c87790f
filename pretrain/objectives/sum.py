"""Several objectives at once, each with a weight: clicks together with what titles and pictures say (ours)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from pretrain.objectives.base import OF_PICTURES, Context, Objective, catalogue_from
from pretrain.objectives.parts.losses import Term


class Annotations:
    """What several objectives say of catalogue records."""

    def __init__(self, parts: list[Callable[[list[dict[str, Any]]], dict[str, Tensor]]]) -> None:
        self.parts = parts

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {name: value for part in self.parts for name, value in part(records).items()}


class Sum(Objective):
    """Several objectives with weights on one encoder (ours).

    The sum of their terms, each times its objective's weight. Objectives of requests see a step's requests, those of
    catalogue pictures a batch of the catalogue; the encoder embeds both in one pass. The guards see the requests'
    pictures. An objective's own options stay in its own section, such as objective.courier.
    """

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of sum.

        Attributes
        ----------
        weights : dict
            Weight of each objective, as in '{courier: 1, clip: 0.5}'; those that are not named are not learned.
        catalogue : int
            Catalogue pictures per step, over all processes, besides the requests; 0 takes as many as --batch.rows.
        """

        weights: dict[str, PositiveFloat] = field(default_factory=lambda: {"courier": 1.0, "clip": 1.0})
        catalogue: NonNegativeInt = 0

        def __post_init__(self) -> None:
            super().__post_init__()
            if "sum" in self.weights:
                raise UserError("--objective.sum.weights names sum itself: name the objectives it is made of")
            if len(self.weights) < 2:
                raise UserError(
                    f"--objective.sum.weights names {', '.join(self.weights) or 'nothing'}: a sum has at least two "
                    "objectives. Choose a single one with --objective.name"
                )

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        self.parts = nn.ModuleDict(context.parts)
        kinds = {part.batches for part in self.parts.values()}
        self.batches = kinds.pop() if len(kinds) == 1 else "both"
        if options.catalogue and self.batches != "both":
            raise UserError(
                f"--objective.sum.catalogue is {options.catalogue}, but {', '.join(self.parts)} all take "
                f"{self.batches}: remove it; --batch.rows is their number"
            )
        self.catalogue = options.catalogue
        of_items = [part for part in self.parts.values() if part.batches == "items"]
        self.views = max((part.views for part in of_items), default=1)
        said = [part.annotate for part in of_items if part.annotate]
        self.annotate = Annotations(said) if said else None

    @classmethod
    def made_of(cls, options: Settings) -> list[str]:
        return list(options.weights)

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """The parts' terms, weighted, by their own names.

        Parameters
        ----------
        embeddings : float tensor (N, D)
        batch : dict of tensors
            Of requests, of catalogue pictures, or of both (see ``pretrain.data.stream``).
        """
        found: dict[str, Term] = {}
        for name, part in self.parts.items():
            weight = self.options.weights[name]
            for term_name, term in part.terms(*self.part_of(part, embeddings, batch)).items():
                label = term_name if term_name not in found else f"{name}_{term_name}"
                found[label] = Term(weight * term.loss, weight * term.chance)
        return found

    def part_of(
        self, part: Objective, embeddings: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings and batch as one objective knows them: of requests, or of as many views as it takes."""
        first, count = catalogue_from(batch), len(embeddings)
        chosen = slice(first, first + (count - first) // self.views * part.views)
        if part.batches == "requests":
            chosen = slice(0, first)
        own = {name: batch[name][chosen] for name in OF_PICTURES if name in batch}
        return embeddings[chosen], batch | own

    def after_step(self, encoder: nn.Module) -> None:
        for part in self.parts.values():
            part.after_step(encoder)
