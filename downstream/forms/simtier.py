"""The form "simtier": how many clicked items look how much like the shown one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_tools.common.checks import Checked, FromTwo
from downstream.forms.base import Form
from downstream.forms.cosines import history_cosines
from downstream.images.features import FrozenTable
from downstream.images.joined import ItemImages
from downstream.settings import ImageSettings


class SimTier(Form):
    """Histogram of the shown item's cosines with the clicked ones over equal bins of [-1, 1].

    The histogram, 20 bins of width 0.1, is that of arXiv 2407.19467; log(1 + count) times a learned weight for each
    bin is what MUSE (arXiv 2512.07216) makes of it. Features: one such product a bin. Clicked items without a vector
    are not counted. Ours: the weights start at 1, and a shown item without a vector gets learned features instead of
    an empty histogram, which would say that its user clicked nothing.
    """

    uses = frozenset({"centre"})  # counting has no gradient

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the histogram.

        Attributes
        ----------
        bins : int
            Bins of equal width over [-1, 1].
        """

        bins: FromTwo = 20

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Settings, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        self.features = FrozenTable(images)
        self.width = options.bins
        self.weight = nn.Parameter(torch.ones(self.width))
        self.no_image = nn.Parameter(torch.zeros(self.width))

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """Clicked items of each bin (B, bins), float32; cosine 1 falls into the last bin."""
        cosines, known = history_cosines(self.features, batch)
        row, _ = known.nonzero(as_tuple=True)
        tier = ((cosines[known] + 1) / 2 * self.width).long().clamp(0, self.width - 1)
        counts = torch.bincount(row * self.width + tier, minlength=len(known) * self.width)
        return counts.view(len(known), self.width).float()

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        features = torch.log1p(self.counts(batch)) * self.weight
        pictured = self.features.found[batch["row"]][batch["target"]]
        return torch.where(pictured[:, None], features, self.no_image)
