"""DSSM: what a query says against what an item's text says, by the letters (Huang et al., CIKM 2013)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.data.codes import PADDING
from downstream.data.ctr_data import CTRData
from downstream.layers.blocks import clicked_mean, gather, per_context
from downstream.models.base import CTRModel, MakeImages
from downstream.models.towers import Towers
from downstream.settings import ModelSettings

TRIGRAMS = 30_000  # the paper's 500,000 words have 30,621
WIDTHS = (300, 300, 128)
NEGATIVES = 4
SMOOTHING = 10.0  # gamma of the softmax; the paper tunes it and does not give it


def letter_trigrams(text: str) -> list[str]:
    """Three letters at a time of each word between marks: "#go", "go#" of "go"."""
    marked = [f"#{word}#" for word in re.findall(r"\w+", text.lower())]
    return [word[start : start + 3] for word in marked for start in range(len(word) - 2)]


def trigram_codes(data: CTRData) -> tuple[np.ndarray, int]:
    """Trigram codes of each item's title and category (items, longest text) padded with 0, and the number of codes.

    Codes go to the trigrams of items shown in training, the most frequent first; others are left out.
    """
    items = data.dataset.items
    columns = [items[name].cast(str).fill_null("").to_list() for name in ("title", "category") if name in items.columns]
    spelt = [letter_trigrams(" ".join(parts)) for parts in zip(*columns, strict=True)] or [[]] * len(items)
    counts = Counter(trigram for row in np.flatnonzero(data.warm) for trigram in spelt[row])
    code = {trigram: place + 1 for place, (trigram, _) in enumerate(counts.most_common(TRIGRAMS))}
    known = [[code[trigram] for trigram in own if trigram in code] for own in spelt]
    # Items that the data have behind those of the dataset have no text.
    codes = np.full((len(data.item_code), max([1, *map(len, known)])), PADDING, dtype=np.int64)
    for row, own in enumerate(known):
        codes[row, : len(own)] = own
    return codes, len(code) + 1


class Tower(nn.Module):
    """Bags of trigrams and, where there are images, image embeddings, through 300-300-128 with tanh, to unit length."""

    codes_of = "trigram"

    def __init__(self, codes: int, image_size: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(codes, WIDTHS[0], mode="sum", padding_idx=PADDING)
        nn.init.xavier_uniform_(self.words.weight)
        self.image = nn.Linear(image_size, WIDTHS[0], bias=False) if image_size else None
        self.bias = nn.Parameter(torch.zeros(WIDTHS[0]))
        self.rest = nn.Sequential(
            nn.Linear(WIDTHS[0], WIDTHS[1]), nn.Tanh(), nn.Linear(WIDTHS[1], WIDTHS[2]), nn.Tanh()
        )

    def first(self, codes: Tensor, images: Tensor | None) -> Tensor:
        """The first layer before bias and tanh (M, 300): linear, since several items are pooled."""
        summed = self.words(codes)
        return summed if images is None else summed + self.image(images)

    def forward(self, summed: Tensor) -> Tensor:
        return nn.functional.normalize(self.rest(torch.tanh(summed + self.bias)), dim=-1)


class DSSM(Towers):
    """Cosine of a query tower and an item tower; softmax over a clicked item and four unclicked ones.

    Ours: no dataset here has queries, so the query is the mean of the texts (title and category) and images of the
    user's recent clicks; unclicked items are drawn from the unclicked impressions of the batch; the click's logit is
    ``scale * cosine + shift``, two numbers fitted along with the towers by the cross-entropy of the clicks, which does
    not reach the towers. DSSM has no IDs: "IDs only" are the texts.
    """

    uses = frozenset()

    @classmethod
    def make(cls, data: CTRData, settings: ModelSettings, options: Any, images: MakeImages | None) -> CTRModel:
        codes, count = trigram_codes(data)
        model = cls({"trigrams": count}, settings, options, images)
        model.register_buffer("codes", torch.from_numpy(codes), persistent=False)
        return model

    def __init__(self, sizes: dict[str, int], settings: ModelSettings, options: Any, images: MakeImages | None) -> None:
        super().__init__({}, settings, options, None)
        self.embed = images.embedder() if images else None
        size = self.embed.no_image.numel() if self.embed else 0
        self.query, self.item = Tower(sizes["trigrams"], size), Tower(sizes["trigrams"], size)
        self.scale, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def _first(self, tower: Tower, batch: dict[str, Tensor]) -> Tensor:
        return tower.first(self.codes[batch["row"]], self.embed(batch["row"]) if self.embed else None)

    def user_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        first = self._first(self.query, batch)
        return per_context(batch, lambda contexts: self.query(clicked_mean(first, contexts)))

    def item_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        return self.item(self._first(self.item, batch))

    def _vectors(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.user_vectors(batch), gather(self.item_vectors(batch), batch["target"])

    def _logits(self, cosine: Tensor) -> Tensor:
        return self.scale * cosine + self.shift

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the clicks (B,)."""
        query, item = self._vectors(batch)
        return self._logits((query * item).sum(dim=-1))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """-log softmax(gamma cosine) of the clicked items among four unclicked each, and the logits' own loss."""
        query, item = self._vectors(batch)
        clicked, unclicked = (batch["click"] == 1).nonzero()[:, 0], (batch["click"] == 0).nonzero()[:, 0]
        cosine = (query * item).sum(dim=-1)
        fitted = nn.functional.binary_cross_entropy_with_logits(self._logits(cosine.detach()), batch["click"])
        if not (len(clicked) and len(unclicked)):
            return fitted + 0.0 * cosine.sum()
        drawn = unclicked[torch.randint(len(unclicked), (len(clicked), NEGATIVES), device=unclicked.device)]
        others = torch.einsum("pd,pnd->pn", query[clicked], item[drawn])
        scores = SMOOTHING * torch.cat([cosine[clicked, None], others], dim=1)
        return fitted - scores.log_softmax(dim=1)[:, 0].mean()
