"""What every CTR model has: settings, embeddings of the IDs, and a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.common.cli import UserError
from downstream.data.ctr_data import FIRST_KNOWN, PADDING, UNKNOWN, CTRData
from downstream.images.joined import ImageEmbedder
from downstream.layers.blocks import ACTIVATIONS, id_embedding


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
    activation : "prelu" or "dice" (arXiv 1706.06978), in the MLP and in the activation unit of "din"
    attention : widths of the activation unit's MLP in "din"
    softmax : whether the weights of "din" are made to sum to 1, as in DIN's released code but not in its text
    l1, l21 : beta and lambda of "mlr": L1 of its weights, and L2 of each feature's weights together
    l2 : lambda of the mini-batch aware L2 of the ID embeddings (see ``CTRModel.embedding_l2``); 0 for none
    """

    name: str = "dicm"
    embedding: int = 12
    hidden: tuple[int, ...] = (200, 80)
    activation: str = "prelu"
    attention: tuple[int, ...] = (80, 40)
    softmax: bool = False
    l1: float = 0.01
    l21: float = 0.01
    l2: float = 0.0

    def __post_init__(self) -> None:
        from downstream.models import check_name  # the registry imports the models, which import this file

        check_name(self.name)
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown; one of {sorted(ACTIVATIONS)} is expected")
        if (
            not self.attention
            or min(self.embedding, *self.hidden, *self.attention) < 1
            or min(self.l1, self.l21, self.l2) < 0
        ):
            expected = "sizes and widths from 1, one or more of attention, and l1, l21 and l2 from 0"
            raise UserError(f"{self}: {expected} are expected")


# Features of an item that a dataset may lack: a constant in the place of each would teach nothing.
OPTIONAL = ("category", "words")


class CTRModel(nn.Module):
    """A model of the click, made as ``Model(sizes, settings, images, slots)``, called as ``model(batch) -> logits``.

    An item is its own ID (which is its image's ID too), its category and the mean of its title's words; category and
    words only where the dataset has some.

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
        used = {name: codes for name, codes in sizes.items() if codes > FIRST_KNOWN or name not in OPTIONAL}
        self.ids = nn.ModuleDict({name: id_embedding(codes, settings.embedding) for name, codes in used.items()})
        self.item_width = settings.embedding * len(used.keys() & {"item", "category", "words"})
        self.images = images(self.item_width) if images else None
        self.l2 = settings.l2
        self.context_width = settings.embedding * len(self.ids.keys() & {"user", "scene"})

    def embed_items(self, batch: dict[str, Tensor]) -> Tensor:
        """ID embeddings of the distinct items (M, item_width)."""
        features = [self.ids[name](batch[name]) for name in ("item", "category") if name in self.ids]
        if "words" in self.ids:
            words, padding = self.ids["words"](batch["words"]), batch["words"] == PADDING
            features.append(words.sum(dim=1) / (~padding).sum(dim=1, keepdim=True).clamp(min=1))
        return torch.cat(features, dim=-1)

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

    def count(self, occurrences: dict[str, np.ndarray]) -> None:
        """Take the number of training impressions that show each code, feature -> (codes,), for the L2."""
        for name in self.ids:
            # The unknown code stands in any impression, since IDs are hidden at random (ours).
            counts = torch.from_numpy(occurrences[name]).float().clamp(min=1)
            counts[UNKNOWN] = float(occurrences[name].max())
            self.register_buffer(f"{name}_occurrences", counts, persistent=False)

    def embedding_l2(self, batch: dict[str, Tensor]) -> Tensor:
        """Half the sum over the codes j that the batch shows of |w_j|^2 / n_j, n_j from :meth:`count`.

        Equation 6 of arXiv 1706.06978 for one batch; its gradient, alpha_mj w_j / n_j, is that of equation 7. A code
        counts once however often the batch shows it, over all processes where there are several.
        """
        total = torch.zeros((), device=batch["click"].device)
        for name, embedding in self.ids.items():
            counts = self.get_buffer(f"{name}_occurrences")
            shown = torch.zeros_like(counts).index_fill(0, batch[name].flatten(), 1.0)
            shown[PADDING] = 0.0
            weight = shown
            if torch.distributed.is_initialized():
                # Gradients are averaged over the processes: those that show a code share its term out.
                holders = shown.clone()
                torch.distributed.all_reduce(holders)
                weight = shown * torch.distributed.get_world_size() / holders.clamp(min=1)
            code = weight.nonzero().squeeze(1)
            total = total + 0.5 * (embedding(code).square().sum(dim=1) * weight[code] / counts[code]).sum()
        return total
