"""SimSiam: one view of a catalogue picture predicts the other, without negatives (a generic baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from data_tools.common.checks import Checked
from pretrain.objectives.base import Context, Objective
from pretrain.objectives.parts.losses import Term, negative_cosine
from pretrain.runtime.distributed import gather


class GlobalBatchNorm(nn.Module):
    """Batch norm over the rows of all processes, in float32, for training only: it keeps no running statistics."""

    def __init__(self, size: int, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if affine else None
        self.bias = nn.Parameter(torch.zeros(size)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D); every process has the same n."""
        whole = gather(x)
        x = (x - whole.mean(0)) * (whole.var(0, correction=0) + 1e-5).rsqrt()
        return x if self.weight is None else x * self.weight + self.bias


def _mlp(sizes: list[int], last_norm: bool) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between; ``last_norm``: the last is followed by a norm without weights."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after, bias=False), GlobalBatchNorm(after), nn.ReLU()]
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=not last_norm))
    return nn.Sequential(*layers, *([GlobalBatchNorm(sizes[-1], affine=False)] if last_norm else []))


class SimSiam(Objective):
    """One view of a catalogue picture predicts the other, without negatives (SimSiam, arXiv 2011.10566).

    L = D(p_1, z_2) / 2 + D(p_2, z_1) / 2 with D the negative cosine and z without gradient (equation 2 of the paper).

    The projector (three layers) and the predictor (two, with a bottleneck) follow the embedding, as in the paper, and
    are thrown away with the run.
    """

    batches = "items"

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of simsiam: the networks after the embedding.

        Attributes
        ----------
        width : int
            Width of the three-layer projector.
        bottleneck : int
            Hidden width of the two-layer predictor.
        """

        width: PositiveInt = 256
        bottleneck: PositiveInt = 64

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        width, bottleneck = options.width, options.bottleneck
        self.projector = _mlp([context.encoder.dimensions, width, width, width], last_norm=True)
        self.predictor = _mlp([width, bottleneck, width], last_norm=False)

    @classmethod
    def collapse_causes(cls, options: Settings) -> list[str]:
        return ["simsiam has no negatives: only its predictor and the stopped gradient keep it from collapse"]

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """``simsiam_loss``.

        Parameters
        ----------
        embeddings : float tensor (2n, D)
            First views of n pictures, then their second views in the same order.
        """
        projected = self.projector(embeddings.float())
        predicted = self.predictor(projected)
        half = len(embeddings) // 2
        everything = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
        return {"simsiam_loss": negative_cosine(predicted, projected.detach().roll(half, 0), everything)}
