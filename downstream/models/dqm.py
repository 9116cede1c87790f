"""DQM: the pre-ranking model, which has milliseconds for thousands of ads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from downstream.layers import gather, prelu_mlp
from downstream.models.base import MakeImages, ModelSettings
from downstream.models.towers import Towers, clicked_mean

SIZE = 32


class DQM(Towers):
    """Towers of user, ad and scene, and the inner products of what they give: u.a + s.a + u.s + b.

    From PAPERS.md section 4 (the fourth seed document) and the pre-rank variant of DICM (arXiv 1711.06505): the user
    is its IDs and the sum of the behaviour images, the ad its IDs and its image, embedded by one trainable model. Which
    inner products are taken is ours, and so are their size and the towers' widths (those of the MLP). As
    u.a + s.a = (u + s).a, serving is one product with ad vectors computed before.
    """

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, images: MakeImages | None, slots: int) -> None:
        super().__init__(sizes, settings, None, slots)
        self.embed = images.embedder() if images else None
        size = self.embed.no_image.numel() if self.embed else 0
        user_width = settings.embedding + self.item_width + size
        self.user = prelu_mlp([user_width, *settings.hidden], SIZE)
        self.ad = prelu_mlp([self.item_width + size, *settings.hidden], SIZE)
        self.scene = prelu_mlp([settings.embedding, SIZE], SIZE) if "scene" in sizes else None
        self.bias = nn.Parameter(torch.zeros(()))

    def _towers(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """User and scene vectors, (B, SIZE) each; zeros for the scene where the dataset has none."""
        features = [self.ids["user"](batch["user"]), clicked_mean(self.embed_items(batch), batch)]
        if self.embed:
            behaviours = gather(self.embed(batch["row"]), batch["history"])
            features.append(torch.einsum("bhd,bh->bd", behaviours, batch["mask"].to(behaviours.dtype)))
        user = self.user(torch.cat(features, dim=-1))
        scene = self.scene(self.ids["scene"](batch["scene"])) if self.scene else torch.zeros_like(user)
        return user, scene

    def user_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        user, scene = self._towers(batch)
        return user + scene

    def item_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        features = [self.embed_items(batch)]
        if self.embed:
            features.append(self.embed(batch["row"]))
        return self.ad(torch.cat(features, dim=-1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        user, scene = self._towers(batch)
        ad = gather(self.item_vectors(batch), batch["target"])
        return ((user + scene) * ad).sum(dim=-1) + (user * scene).sum(dim=-1) + self.bias
