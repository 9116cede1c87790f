"""What every CTR model has: embeddings of the IDs, image features, and an L2."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from downstream.data.codes import FIRST_KNOWN, PADDING, UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.data.user_features import user_features
from downstream.forms.base import Form
from downstream.images.embedder import ImageEmbedder
from downstream.layers.blocks import id_embedding
from downstream.layers.click_model import ClickModel
from downstream.settings import ModelSettings


class MakeImages(Protocol):
    """Makes the part of a model that sees images."""

    def __call__(self, query_size: int) -> Form:
        """A form, given the size of the shown item's ID embeddings."""

    def embedder(self) -> ImageEmbedder:
        """The trainable embedding model alone, called as ``embedder(row)``: for towers, which see no pairs."""


# Features of an item that a dataset may lack: an embedding that is the same for all items would teach nothing.
OPTIONAL = ("category", "words")


class CTRModel(ClickModel):
    """A model of the click, made as ``Model(sizes, settings, options, images)``, called as ``model(batch) -> logits``.

    An item is its own ID (which is its image's ID too), its category and the mean of its title's words; category and
    words only where the dataset has some. A model with options has a dataclass ``Settings``; they are set as
    ``model.NAME.OPTION``.

    Parameters
    ----------
    sizes : dict of str to int
        Number of codes of user, item, category, words, where the dataset has scenes, scene, and of what is known of
        users.
    settings : ModelSettings
        What all models share.
    options : Settings
        The model's own options; None for a model without.
    images : MakeImages
        Makes the image features; None for IDs only.

    Attributes
    ----------
    uses : frozenset of str
        Shared settings that have an effect on the model; others are refused once they are changed.
    forms : tuple of str
        Forms of images that the model can be given; None for all of them.
    uses_of_images : frozenset of str
        Settings of ``image`` that have an effect on the model; None for all that the form uses.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"embedding", "hidden", "activation", "l2"})
    forms: ClassVar[tuple[str, ...] | None] = None
    uses_of_images: ClassVar[frozenset[str] | None] = None

    @classmethod
    def make(cls, data: CTRData, settings: ModelSettings, options: Any, images: MakeImages | None) -> CTRModel:
        """The model for a dataset; a model that needs more of it than the sizes gets it here."""
        return cls(data.sizes, settings, options, images)

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__()
        # The IDs are made first: with one seed they start alike, whatever else the model has.
        used = {name: codes for name, codes in sizes.items() if codes > FIRST_KNOWN or name not in OPTIONAL}
        self.ids = nn.ModuleDict({name: id_embedding(codes, settings.embedding) for name, codes in used.items()})
        self.item_width = settings.embedding * len(used.keys() & {"item", "category", "words"})
        self.images = images(self.item_width) if images else None
        self.l2 = settings.l2
        self.of_users = user_features(self.ids)
        self.context_width = settings.embedding * len(self._of_context())

    def embed_items(self, batch: dict[str, Tensor]) -> Tensor:
        """ID embeddings of the distinct items (M, item_width)."""
        features = [self.ids[name](batch[name]) for name in ("item", "category") if name in self.ids]
        if "words" in self.ids:
            words, padding = self.ids["words"](batch["words"]), batch["words"] == PADDING
            features.append(words.sum(dim=1) / (~padding).sum(dim=1, keepdim=True).clamp(min=1))
        return torch.cat(features, dim=-1)

    def embed_context(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Embeddings of the user, what is known of the user, and the scene, as far as the dataset has them.

        ``context_width`` in all.
        """
        return [self.ids[name](batch[name]) for name in self._of_context()]

    def _of_context(self) -> list[str]:
        return [*(name for name in ("user", "scene") if name in self.ids), *self.of_users]

    def penalised_loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.loss(batch)
        return loss + self.l2 * self.embedding_l2(batch) if self.l2 else loss

    def count(self, occurrences: dict[str, np.ndarray]) -> None:
        """Keep the number of training impressions that show each code, feature -> (codes,), for the L2."""
        for name in self.ids:
            # Any impression may show the unknown code, since IDs are masked at random (ours).
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
            code, share = _shown(batch[name])
            counts = self.get_buffer(f"{name}_occurrences")[code]
            total = total + 0.5 * (embedding(code).square().sum(dim=1) * share / counts).sum()
        return total


def _shown(codes: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct codes that this process's part of a batch shows, without padding, and the weight of each.

    Gradients are averaged over the processes, so those that show a code split its term: the weight is the number of
    processes over the number of those that show it.
    """
    own = codes.unique()
    own = own[own != PADDING]
    if not torch.distributed.is_initialized():
        return own, torch.ones(len(own), device=own.device)
    processes = torch.distributed.get_world_size()
    lengths = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(processes)]
    torch.distributed.all_gather(lengths, torch.tensor([len(own)], device=own.device))
    padded = own.new_full((int(max(lengths)),), PADDING)
    padded[: len(own)] = own
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    torch.distributed.all_gather(gathered, padded)
    distinct, holders = torch.cat(gathered).unique(return_counts=True)
    return own, processes / holders[torch.searchsorted(distinct, own)].float()
