"""What every CTR model has: settings, embeddings of the IDs, and a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from downstream.data import PADDING, CTRData
from downstream.images import ImageEmbedder
from downstream.layers import id_embedding


class MakeImages(Protocol):
    """Makes the part of a model that looks at images."""

    def __call__(self, query_size: int) -> nn.Module:
        """A form: a module called as ``(batch, ad_ids)`` with a ``width``, given the size of ``ad_ids``."""

    def embedder(self) -> ImageEmbedder:
        """The trainable embedding model alone, called as ``embedder(row)``: for towers, which see no pairs."""


@dataclass(frozen=True)
class ModelSettings:
    """The network.

    Attributes
    ----------
    name : one of ``downstream.models``
    embedding : size of each ID embedding
    hidden : widths of the MLP
    """

    name: str = "dicm"
    embedding: int = 12
    hidden: tuple[int, ...] = (200, 80)

    def __post_init__(self) -> None:
        from downstream.models import check_name  # the registry imports the models, which import this file

        check_name(self.name)


class CTRModel(nn.Module):
    """A model of the click, made as ``Model(sizes, settings, images, slots)``, called as ``model(batch) -> logits``.

    An item is its own ID (which is its image's ID too), its category and the mean of its title's words.

    Parameters
    ----------
    sizes : number of codes of user, item, category, words and, where the dataset has scenes, scene
    settings : of the network
    images : makes the image features; None for IDs only
    slots : number of history slots H of a batch
    """

    # The forms of images that the model can be given; None for all of them.
    forms: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def make(cls, data: CTRData, settings: ModelSettings, images: MakeImages | None) -> CTRModel:
        """The model for a dataset; a model that needs more of it than the sizes takes it here."""
        return cls(data.sizes, settings, images, data.settings.history)

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, images: MakeImages | None, slots: int) -> None:
        super().__init__()
        # The IDs are made first: with one seed they start alike, whatever stands beside them.
        self.ids = nn.ModuleDict({name: id_embedding(codes, settings.embedding) for name, codes in sizes.items()})
        self.item_width = 3 * settings.embedding
        self.images = images(self.item_width) if images else None
        self.context_width = settings.embedding * len(self.ids.keys() & {"user", "scene"})

    def embed_items(self, batch: dict[str, Tensor]) -> Tensor:
        """ID embeddings of the distinct items (M, item_width)."""
        words, padding = self.ids["words"](batch["words"]), batch["words"] == PADDING
        title = words.sum(dim=1) / (~padding).sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([self.ids["item"](batch["item"]), self.ids["category"](batch["category"]), title], dim=-1)

    def embed_context(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """ID embeddings of the user and, where the dataset has scenes, the scene; ``context_width`` in all."""
        return [self.ids[name](batch[name]) for name in ("user", "scene") if name in self.ids]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What training minimises, a scalar: the mean binary cross-entropy of the clicks."""
        return nn.functional.binary_cross_entropy_with_logits(self(batch), batch["click"])

    def probabilities(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """task -> probabilities (B,): "click" and, of a model of conversions, "conversion" and "purchase".

        "conversion" is the probability of click and purchase, "purchase" that of the purchase after a click.
        """
        return {"click": torch.sigmoid(self(batch))}

    def after_step(self, lr: float) -> None:
        """Called after each step of the optimizer, for penalties that gradients cannot express; nothing by default."""
