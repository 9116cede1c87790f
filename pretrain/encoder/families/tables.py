"""Vectors of an embedding table in place of an image tower: no picture is read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from data_tools.common.checks import Checked, OpenShare
from data_tools.common.errors import UserError
from data_tools.common.files import read_json
from data_tools.common.storage import exists
from data_tools.sharding.read import all_records, open_shards
from data_tools.tables.seen import Seen, seen
from data_tools.tables.table import EmbeddingTable, read_table
from pretrain.encoder.families.base import EncoderFamily, Tower

LARGEST_LACK = 0.5  # share of the catalogue that may be without a vector


class VectorTower(nn.Module):
    """Items (N,) to features (N, F): each item's vector, standardised, through an adapter.

    The vectors are no weights: they are read from the table again. Centre and scale are, so that vectors of new items
    are brought into the same space.

    Parameters
    ----------
    vectors : float32 array (M, F)
    adapter : nn.Module
        (N, F) -> (N, F'), trained.
    dropout : float
        Share of the numbers of a vector that are dropped in training.
    standardise : bool
        Whether vectors lose the table's mean and are divided by their root mean square (ours); otherwise they stay.
    each_number : bool
        Whether that root mean square is each number's own rather than one for the table.
    """

    def __init__(
        self, vectors: np.ndarray, adapter: nn.Module, *, dropout: float, standardise: bool, each_number: bool = False
    ) -> None:
        super().__init__()
        found = torch.from_numpy(vectors)
        centre, scale = torch.zeros(found.shape[1]), torch.ones(())
        if standardise:
            centre = found.mean(dim=0)
            squares = (found - centre).square_()
            scale = (squares.mean(dim=0) if each_number else squares.mean()).sqrt()
        self.register_buffer("vectors", found, persistent=False)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", torch.where(scale > 1e-12, scale, 1.0))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.adapter = adapter

    def arrange(self, rows: np.ndarray) -> None:
        """Let item i have the vector of the table's row ``rows[i]``; the centre, where that is -1: it says nothing."""
        found, missing = self.vectors[torch.from_numpy(rows)], torch.from_numpy(rows < 0)
        found[missing] = self.centre
        self.vectors = found

    def forward(self, items: Tensor) -> Tensor:
        return self.adapter(self.dropout(self.vectors[items].sub_(self.centre).div_(self.scale)))


class Residual(nn.Module):
    """x + f(x), where f ends in zeros at the start: training begins with the table as it is."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner
        nn.init.zeros_(inner[-1].weight)
        nn.init.zeros_(inner[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Table(EncoderFamily):
    """Vectors of an embedding table (its path is the name) with a trainable head; no picture is read."""

    takes = "items"

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the family table.

        Attributes
        ----------
        adapter : str
            What is trained before the linear layer to --encoder.dimensions: nothing (linear), a hidden layer (mlp), or
            a hidden layer whose output is added to the vector (residual; with --encoder.dimensions 0 it starts as the
            table itself).
        hidden : int
            Width of the adapter's hidden layer.
        dropout : float
            Share of the numbers of a vector that are dropped in training, drawn again for each view; the augmentation
            of objectives that compare two views.
        standardise : bool
            Subtract the table's mean vector and divide by the root mean square.
        each_number : bool
            When standardising, divide each number by its own root mean square, which gives parts of different scales
            equal weight, such as those of a table of all stages (export --layer stages).
        """

        adapter: Literal["linear", "mlp", "residual"] = "linear"
        hidden: PositiveInt = 256
        dropout: OpenShare = 0.0
        standardise: bool = True
        each_number: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.each_number and not self.standardise:
                raise UserError(
                    "--encoder.table.each_number says how to standardise, but --encoder.table.standardise is false"
                )

    def build(self, name: str, image_size: int) -> Tower:
        return Tower(self.tower(read_table(name)), [0.0] * 3, [1.0] * 3)

    def tower(self, table: EmbeddingTable) -> VectorTower:
        """The tower over a table; item i is the table's row i until :meth:`attach` arranges them."""
        size, hidden, options = table.vectors.shape[1], self.options.hidden, self.options
        adapter: nn.Module = nn.Identity()
        if options.adapter == "mlp":
            adapter = nn.Sequential(nn.Linear(size, hidden), nn.ReLU())
        elif options.adapter == "residual":
            adapter = Residual(nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size)))
        return VectorTower(
            table.vectors,
            adapter,
            dropout=options.dropout,
            standardise=options.standardise,
            each_number=options.each_number,
        )

    def attach(self, tower: nn.Module, name: str, data: str) -> None:
        items = [(record["item"], record["item_id"]) for record in all_records(open_shards(data), "items")]
        row_of = {str(item_id): row for row, item_id in enumerate(read_table(name).ids)}
        rows = np.full(1 + max(item for item, _ in items), -1)
        for item, item_id in items:
            rows[item] = row_of.get(str(item_id), -1)
        lacking = [item_id for item, item_id in items if rows[item] < 0]
        if len(lacking) > LARGEST_LACK * len(items):
            raise UserError(
                f"{name} has no vector for {len(lacking):,} of the {len(items):,} items of {data}, such as "
                f"{lacking[0]!r}; give the table that was made of these items"
            )
        if lacking:
            warnings.warn(
                f"{name} has no vector for {len(lacking):,} of {len(items):,} items, such as {lacking[0]!r}: the mean "
                "vector replaces them",
                stacklevel=2,
            )
        tower.arrange(rows)

    def seen(self, name: str) -> Seen:
        described = Path(name) / "table.json"
        return seen(read_json(described)) if exists(described) else None

    def example(self, image_size: int, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long)

    def prepared(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return images

    def layer_groups(self, tower: nn.Module, stages: bool) -> dict[str, int]:
        return dict.fromkeys((name for name, _ in tower.named_parameters()), 0)

    def preprocessing(self, image_size: int, mean: list[float], std: list[float]) -> dict[str, Any]:
        return {"input": "vectors of an embedding table", "standardised": self.options.standardise}
