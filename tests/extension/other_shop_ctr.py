"""Plug-ins of CTR models: a form, an aggregator and a model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from data_tools.common.checks import Checked
from downstream.forms.aggregators import Aggregator, make_aggregator
from downstream.forms.base import Form
from downstream.images.features import FrozenTable
from downstream.images.joined import ItemImages
from downstream.layers.blocks import gather
from downstream.models.base import MakeImages
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.settings import ImageSettings, ModelSettings


def note(text: str) -> None:
    """Leave a line for the test."""
    with Path(f"{os.environ['SEEN']}-{os.environ['COMMAND']}").open("a") as file:
        file.write(f"{text}\n")


class Nearest(Form):
    """The shown item's vector and the pooled vectors of the latest clicks."""

    uses = frozenset({"aggregator"})

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of nearest.

        Attributes
        ----------
        clicks : int
            How many of the latest clicks count.
        """

        clicks: PositiveInt = 10

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Settings, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        note(f"Nearest clicks {options.clicks}")
        self.features, self.clicks = FrozenTable(images), options.clicks
        size = images.vectors.shape[1]
        self.pool = make_aggregator(size, settings, slots=slots, query_size=query_size)
        self.width = size + self.pool.width

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        vectors = self.features(batch["row"])
        mask = batch["mask"].clone()
        mask[:, self.clicks :] = False
        ad = gather(vectors, batch["target"])
        return torch.cat([ad, self.pool(gather(vectors, batch["history"]), mask, ad, ad_ids)], dim=-1)


class Decay(Aggregator):
    """Sum of the clicked items, each half life back counting half."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of decay.

        Attributes
        ----------
        half_life : float
            Clicks after which a click counts half.
        """

        half_life: PositiveFloat = 10.0

    def __init__(self, size: int, options: Settings, *, slots: int, query_size: int) -> None:
        super().__init__(size, options, slots=slots, query_size=query_size)
        note(f"Decay half_life {options.half_life}")
        self.register_buffer("weight", 0.5 ** (torch.arange(slots) / options.half_life), persistent=False)

    def forward(self, behaviours: Tensor, mask: Tensor, ad: Tensor, ad_ids: Tensor) -> Tensor:
        return torch.einsum("bhd,bh,h->bd", behaviours, mask.to(behaviours.dtype), self.weight)


class Scaled(EmbeddingMLP):
    """Embedding & MLP whose logits are scaled."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of scaled.

        Attributes
        ----------
        factor : float
            Of the logits.
        """

        factor: PositiveFloat = 1.0

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, images)
        note(f"Scaled factor {options.factor}")
        self.factor = options.factor

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.factor * super().forward(batch)
