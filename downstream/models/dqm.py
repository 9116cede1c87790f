"""DQM: the pre-ranking model, which has milliseconds for thousands of ads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from downstream.layers.blocks import clicked_mean, gather, mlp, per_context
from downstream.models.base import MakeImages
from downstream.models.towers import Towers
from downstream.settings import ModelSettings

SIZE = 32


class DQM(Towers):
    """Towers of user, ad and scene, and the inner products of what they give: u.a + s.a + u.s + b.

    After the project's brief and the pre-rank variant of DICM (arXiv 1711.06505): the user tower takes the user's IDs
    and the sum of the behaviour images, the ad tower the ad's IDs and image, both embedded by one trainable model.
    Which inner products are taken is ours, and so are their size and the towers' widths (those of the MLP). Because
    u.a + s.a = (u + s).a, serving is one product with ad vectors computed before.
    """

    uses = frozenset({"embedding", "hidden", "l2"})

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, None)
        self.embed = images.embedder() if images else None
        size = self.embed.no_image.numel() if self.embed else 0
        user_width = settings.embedding * (1 + len(self.of_users)) + self.item_width + size
        self.user = mlp([user_width, *settings.hidden], SIZE)
        self.ad = mlp([self.item_width + size, *settings.hidden], SIZE)
        self.scene = mlp([settings.embedding, SIZE], SIZE) if "scene" in sizes else None
        self.bias = nn.Parameter(torch.zeros(()))

    def _items(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """ID and image embeddings of the distinct items."""
        return self.embed_items(batch), self.embed(batch["row"]) if self.embed else None

    def _of_contexts(self, contexts: dict[str, Tensor], items: Tensor, images: Tensor | None) -> Tensor:
        """User and scene vectors (C, 2, SIZE); zeros for the scene where the dataset has none."""
        of_user = [self.ids[name](contexts[name]) for name in ("user", *self.of_users)]
        features = [*of_user, clicked_mean(items, contexts)]
        if images is not None:
            behaviours = gather(images, contexts["history"])
            features.append(torch.einsum("bhd,bh->bd", behaviours, contexts["mask"].to(behaviours.dtype)))
        user = self.user(torch.cat(features, dim=-1))
        scene = self.scene(self.ids["scene"](contexts["scene"])) if self.scene else torch.zeros_like(user)
        return torch.stack([user, scene], dim=1)

    def _ads(self, items: Tensor, images: Tensor | None) -> Tensor:
        return self.ad(items if images is None else torch.cat([items, images], dim=-1))

    def user_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        items = self._items(batch)
        return per_context(batch, lambda contexts: self._of_contexts(contexts, *items).sum(dim=1))

    def item_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        return self._ads(*self._items(batch))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        items = self._items(batch)
        user, scene = per_context(batch, lambda contexts: self._of_contexts(contexts, *items)).unbind(dim=1)
        ad = gather(self._ads(*items), batch["target"])
        return ((user + scene) * ad).sum(dim=-1) + (user * scene).sum(dim=-1) + self.bias
