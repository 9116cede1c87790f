"""A gate for each category on the features of any form, to see where embeddings help and where they hurt."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor, nn

from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.forms.base import Form, Train
from downstream.layers.blocks import gather

# Adam moves a weight by about its learning rate a step: by this factor a gate can open or close within an epoch.
STEEPNESS = 10.0


class Gated(Form):
    """A form's features times a learned number in [0, 1], that of the shown item's category.

    The authors of COURIER (arXiv 2306.05001) report that some categories get worse with embeddings, and that a
    learnable gate for each shows which. Ours: the gate is sigmoid(10 w), half open at the start.

    Parameters
    ----------
    form : Form
        Whose features are gated.
    categories : int
        Number of category codes.
    """

    codes_of = "category"

    def __init__(self, form: Form, categories: int) -> None:
        super().__init__()
        self.form = form
        self.width = form.width
        self.weight = nn.Parameter(torch.zeros(categories, 1))

    def gates(self) -> Tensor:
        """The gate of each category code (categories, 1)."""
        return torch.sigmoid(STEEPNESS * self.weight)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        return self.form(batch, ad_ids) * gather(self.gates(), batch["category"][batch["target"]])

    def fit(self, train: Train) -> None:
        self.form.fit(train)

    def report(self, data: CTRData) -> dict:
        """The form's own report, and the gates.

        Returns
        -------
        dict
            With "gates": category, gate, items and impressions in training, the lowest gate first. Items without a
            category, and those whose category is new, share a gate; their category is null.
        """
        gates = self.gates().detach().flatten().cpu().numpy()
        items = pl.DataFrame({"code": data.category_code, "category": data.dataset.items["category"].cast(pl.String)})
        shown = items[data.item[data.rows["train"]]].group_by("code").agg(impressions=pl.len())
        table = (
            items.filter(pl.Series(data.warm))
            .with_columns(category=pl.when(pl.col("code") != UNKNOWN).then("category"))
            .group_by("code", "category")
            .agg(items=pl.len())
            .join(shown, on="code")
            .join(pl.DataFrame({"code": range(len(gates)), "gate": gates}), on="code")
        )
        return {**self.form.report(data), "gates": table.sort("gate", "code").drop("code").to_dicts()}
