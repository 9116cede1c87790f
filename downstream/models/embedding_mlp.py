"""Embedding & MLP on IDs: the baseline that every embedding has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from downstream.data import PADDING
from downstream.layers import gather, prelu_mlp


def id_embedding(codes: int, size: int) -> nn.Embedding:
    """An embedding of integer codes, small at the start, so that codes seen once or never say little."""
    embedding = nn.Embedding(codes, size, padding_idx=PADDING)
    with torch.no_grad():
        embedding.weight.mul_(0.01)
    return embedding


class EmbeddingMLP(nn.Module):
    """IDs of user, scene and item, and the IDs of the clicked items averaged, through an MLP.

    The base model of DICM (arXiv 1711.06505) and DIN (arXiv 1706.06978): 12 numbers an ID there, MLP 200-80 with PReLU
    as in DIN. An item is its own ID (which is its image's ID too), its category and the mean of its title's words.

    Parameters
    ----------
    sizes : number of codes of user, item, category, words and, where the dataset has scenes, scene
    embedding : size d of each ID embedding
    hidden : widths of the MLP
    images : makes further features for the MLP, a module called as ``(batch, ad_ids)`` with a ``width``, given the
        size of an item's ID embeddings; none by default
    """

    def __init__(
        self,
        sizes: dict[str, int],
        embedding: int,
        hidden: Sequence[int],
        images: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        # The IDs are made first: with one seed they start alike, whatever images stand beside them.
        self.ids = nn.ModuleDict({name: id_embedding(codes, embedding) for name, codes in sizes.items()})
        item_width = 3 * embedding
        self.images = images(item_width) if images else None
        others = len(self.ids.keys() & {"user", "scene"})
        width = embedding * others + 2 * item_width + (self.images.width if self.images else 0)
        self.mlp = prelu_mlp([width, *hidden], 1)

    def embed_items(self, batch: dict[str, Tensor]) -> Tensor:
        """ID embeddings of the distinct items (M, 3 d)."""
        words, padding = self.ids["words"](batch["words"]), batch["words"] == PADDING
        title = words.sum(dim=1) / (~padding).sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([self.ids["item"](batch["item"]), self.ids["category"](batch["category"]), title], dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        items = self.embed_items(batch)
        ad_ids = gather(items, batch["target"])
        lengths = batch["mask"].sum(dim=1)
        clicked = nn.functional.embedding_bag(
            batch["history"][batch["mask"]], items, offsets=lengths.cumsum(0) - lengths, mode="mean"
        )
        features = [self.ids[name](batch[name]) for name in ("user", "scene") if name in self.ids]
        features += [ad_ids, clicked]
        if self.images:
            features.append(self.images(batch, ad_ids))
        return self.mlp(torch.cat(features, dim=-1)).squeeze(-1)
