"""Several scenes over one look-up table: a network each, or STAR, whose networks share a part (arXiv 2101.11427)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from data_tools.common.errors import UserError
from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.layers.blocks import mlp
from downstream.layers.prelu import PReLU
from downstream.models.base import CTRModel, MakeImages
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.settings import ModelSettings

AUXILIARY = 32


class SceneLinear(nn.Module):
    """A linear layer a scene, called as ``layer(x, scene)`` with the code of the one scene that all rows x are of.

    With ``star`` its weights are W_shared o W_scene and its bias b_shared + b_scene (arXiv 2101.11427), where W_scene
    starts at 1 and b_scene at 0 (ours), so that all scenes start alike and one never seen stays with the shared ones.
    """

    codes_of = "scene"

    def __init__(self, scenes: int, narrow: int, wide: int, star: bool) -> None:
        super().__init__()
        start = nn.init.kaiming_normal_(torch.empty(wide, narrow), a=0.25)
        self.shared = nn.Parameter(start) if star else None
        self.shared_bias = nn.Parameter(torch.zeros(wide)) if star else None
        own = torch.ones(wide, narrow) if star else start
        # One parameter for all scenes: those that a batch lacks have a gradient too, zero, as several processes need.
        self.own = nn.Parameter(own.repeat(scenes, 1, 1))
        self.own_bias = nn.Parameter(torch.zeros(scenes, wide))

    def forward(self, x: Tensor, scene: int) -> Tensor:
        weight, bias = self.own[scene], self.own_bias[scene]
        if self.shared is not None:
            weight, bias = weight * self.shared, bias + self.shared_bias
        return nn.functional.linear(x, weight, bias)


class PartitionedNorm(nn.Module):
    """(gamma gamma_p) (z - mu_p) / sqrt(var_p + eps) + beta + beta_p, with mean and variance of the scene p.

    arXiv 2101.11427, where a batch is of one scene. Ours, since a batch here is of all and a small scene's part of it
    too small to tell a variance: rows are normalised by moving averages, in training as afterwards, and the code
    "unknown" keeps those over all scenes.
    """

    def __init__(self, scenes: int, width: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.own_gamma = nn.Parameter(torch.ones(scenes, width))
        self.own_beta = nn.Parameter(torch.zeros(scenes, width))
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(scenes, width))
        self.register_buffer("square", torch.ones(scenes, width))
        self.register_buffer("steps", torch.zeros(scenes))

    @torch.no_grad()
    def update(self, x: Tensor, scene: Tensor) -> None:
        """Move the averages of the scenes that rows x (B, width) are of."""
        places = torch.cat([scene, torch.full_like(scene, UNKNOWN)])
        rows = torch.cat([x, x])
        count = torch.zeros_like(self.steps).index_add(0, places, torch.ones_like(rows[:, 0]))
        shown = count > 0
        self.steps += shown
        # A plain mean of the first batches, weighted by the rows of each, then the moving one.
        rate = torch.maximum(1 / self.steps.clamp(min=1), torch.tensor(self.momentum))[:, None] * shown[:, None]
        for kept, values in ((self.mean, rows), (self.square, rows.square())):
            summed = torch.zeros_like(kept).index_add(0, places, values)
            kept += rate * (summed / count.clamp(min=1)[:, None] - kept)

    def forward(self, x: Tensor, scene: int) -> Tensor:
        mean = self.mean[scene]
        variance = (self.square[scene] - mean.square()).clamp(min=0)
        standard = (x - mean) * torch.rsqrt(variance + 1e-3)
        return self.gamma * self.own_gamma[scene] * standard + self.beta + self.own_beta[scene]


class SceneNetworks(EmbeddingMLP):
    """The IDs (and the embedding model of images) shared, an MLP a scene."""

    uses = frozenset({"embedding", "hidden", "l2"})
    star = False

    @classmethod
    def make(cls, data: CTRData, settings: ModelSettings, options: Any, images: MakeImages | None) -> CTRModel:
        if data.scene is None:
            raise UserError(f"model {settings.name!r} needs scenes, and {data.dataset.folder} has no column 'scene'")
        return super().make(data, settings, options, images)

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, images)
        del self.mlp
        widths = [self.width, *settings.hidden, 1]
        self.layers = nn.ModuleList(SceneLinear(sizes["scene"], *pair, self.star) for pair in pairwise(widths))
        self.activations = nn.ModuleList(PReLU() for _ in settings.hidden)

    def _network(self, x: Tensor, scene: int) -> Tensor:
        """Logits (b,) of rows of one scene."""
        for layer, activation in zip(self.layers[:-1], self.activations, strict=True):
            x = activation(layer(x, scene))
        return self.layers[-1](x, scene).squeeze(-1)

    def _by_scene(self, features: Tensor, scene: Tensor) -> Tensor:
        order = scene.argsort(stable=True)
        codes, counts = scene[order].unique_consecutive(return_counts=True)
        parts = features[order].split(counts.tolist())
        logits = torch.cat([self._network(part, code) for part, code in zip(parts, codes.tolist(), strict=True)])
        return logits[order.argsort()]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        return self._by_scene(self.features(batch), batch["scene"])


class STAR(SceneNetworks):
    """STAR (arXiv 2101.11427): partitioned normalisation, W_shared o W_scene, and an auxiliary network of the scene.

    The auxiliary network's logit, from the scene's embedding and the features, is added; its width is ours.
    """

    star = True

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__(sizes, settings, options, images)
        self.norm = PartitionedNorm(sizes["scene"], self.width)
        self.auxiliary = mlp([settings.embedding + self.width, AUXILIARY], 1)

    def _network(self, x: Tensor, scene: int) -> Tensor:
        return super()._network(self.norm(x, scene), scene)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        features, scene = self.features(batch), batch["scene"]
        if self.training:
            self.norm.update(features, scene)
        auxiliary = self.auxiliary(torch.cat([self.ids["scene"](scene), features], dim=-1)).squeeze(-1)
        return self._by_scene(features, scene) + auxiliary
