"""Supervised: the catalogue's category from the picture (a generic baseline)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data_tools.common.cli import UserError
from pretrain.data.records import categories
from pretrain.objectives.base import Context, Objective
from pretrain.objectives.parts.losses import Term, classification


class Labels:
    """Records -> ``category`` (n,), long: the place among the sorted categories, -1 without one."""

    def __init__(self, names: list[str]) -> None:
        self.place = {name: place for place, name in enumerate(names)}

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {"category": torch.tensor([self.place.get(record.get("category"), -1) for record in records])}


class Supervised(Objective):
    """The catalogue's category from the picture: cross entropy of a linear classifier on the embedding.

    Pictures without a category do not count.
    """

    batches = "items"
    views = 1

    def __init__(self, options: None, context: Context) -> None:
        super().__init__(options, context)
        names = categories(context.data)
        if len(names) < 2:
            raise UserError(
                f"{context.data} has {len(names)} categories; --objective.name supervised needs at least two (column "
                "category of items.parquet)"
            )
        self.annotate = Labels(names)
        self.classifier = nn.Linear(context.encoder.dimensions, len(names))

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """``supervised_loss``.

        Parameters
        ----------
        embeddings : float tensor (n, D)
        batch : dict of tensors
            With category (n,).
        """
        return {"supervised_loss": classification(self.classifier(embeddings.float()), batch["category"])}
