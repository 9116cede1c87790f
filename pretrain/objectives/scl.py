"""SCL: pairs of clicks, a momentum queue of negatives, and triplets with what was shown but not clicked.

After SCL (arXiv 2407.19467), whose positives lead from a search to a purchase; of it we know the momentum queue (of
196,800 keys) and the triplet with items clicked but not bought at second hand only. A click log has neither searches
nor purchases. So the pairs here are ours: a user's latest click before a page view, and each item clicked in that page
view; and the triplet's negative is an item of the same page view that was not clicked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.objectives.base import Context, Contrastive, Temperature
from pretrain.objectives.parts.losses import Term, info_nce, triplet
from pretrain.objectives.parts.momentum import MomentumQueue
from pretrain.objectives.parts.targets import copies_of_clicked
from pretrain.runtime.distributed import gather, rank


class Scl(Contrastive):
    """Pairs of consecutive clicks with a momentum queue, and a triplet (after SCL, arXiv 2407.19467).

    InfoNCE of a click's embedding and the slow encoder's embedding (key) of the next click, and the triplet.

    Keys of the batch's other pairs, and those remembered from earlier steps, are the negatives, but for copies of the
    two items of the pair. Keys are those of :class:`pretrain.objectives.parts.momentum.MomentumQueue`.
    """

    @dataclass(frozen=True)
    class Settings(Temperature):
        """Options of scl.

        Attributes
        ----------
        queue : int
            Keys remembered from earlier steps as further negatives; 0 keeps none.
        momentum : float
            Share of itself that the slow encoder, which makes the keys, keeps at each step.
        triplet_weight : float
            Weight of the triplet with a slot of the same page view that was not clicked.
        margin : float
            By how much a clicked slot must be nearer (in cosine) than one that was not.
        """

        queue: NonNegativeInt = 4096
        momentum: ClosedUnitInterval = 0.99
        triplet_weight: NonNegativeFloat = 1.0
        margin: float = 0.1

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        self.memory = MomentumQueue(context.encoder, options.queue, options.momentum)

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """``scl_loss`` and ``triplet_loss``.

        Parameters
        ----------
        embeddings : float tensor (N, D)
            Of the batch's distinct pictures.
        batch : dict of tensors
            With images (N, 3, S, S), history (B, H), page (B, P), click (B, P) and image_item (N,).
        """
        unit = F.normalize(embeddings.float(), dim=-1)
        page, before = batch["page"], batch["history"][:, -1:]
        clicked = (batch["click"] > 0) & (page >= 0)
        pair = clicked & (before >= 0)
        anchor = unit[before.clamp(min=0)]
        terms = {"scl_loss": self._pairs(anchor.expand(-1, page.shape[1], -1), batch, pair)}
        weight = self.options.triplet_weight
        if weight:
            copies = copies_of_clicked(batch["image_item"][page.clamp(min=0)], clicked)
            kept = pair[:, :, None] & ((page >= 0) & ~copies)[:, None, :]
            shown = unit[page.clamp(min=0)]
            margin = self.options.margin
            found = triplet(anchor[:, :, None], shown[:, :, None], shown[:, None], kept=kept, margin=margin)
            terms["triplet_loss"] = Term(weight * found.loss, weight * found.chance)
        return terms

    def _pairs(self, anchor: Tensor, batch: dict[str, Tensor], pair: Tensor) -> Term:
        slots, pair = batch["page"].reshape(-1).clamp(min=0), pair.reshape(-1)
        key = self.memory.encode(batch["images"], slots, pair)
        item, anchor_item = batch["image_item"][slots], batch["image_item"][batch["history"][:, -1].clamp(min=0)]
        anchor_item = anchor_item.repeat_interleave(batch["page"].shape[1])
        candidate = torch.cat([gather(key), self.memory.key])
        candidate_item = torch.cat([gather(item), self.memory.item])
        kept = torch.cat([gather(pair), self.memory.item >= 0])
        # Few slots are clicked: the logits are of those alone, as are the candidates.
        rows, column = pair.nonzero().squeeze(1), kept.cumsum(0) - 1
        positive, shown = column[rows + rank() * len(slots)], candidate_item[kept]
        own = torch.arange(len(shown), device=slots.device)[None, :] == positive[:, None]
        seen = (anchor_item[rows][:, None] == shown[None, :]) & ~own
        term = info_nce(
            query=anchor.flatten(0, 1)[rows],
            query_item=item[rows],
            query_kept=torch.ones_like(rows, dtype=torch.bool),
            candidate=candidate[kept],
            candidate_item=shown,
            candidate_kept=torch.ones_like(shown, dtype=torch.bool),
            positive=positive,
            temperature=self.temperature,
            bias=torch.zeros_like(seen, dtype=torch.float32).masked_fill(seen, float("-inf")),
        )
        fresh = kept[: len(kept) - len(self.memory.key)]
        self.memory.remember(candidate[: len(fresh)][fresh], candidate_item[: len(fresh)][fresh])
        return term

    def after_step(self, encoder: nn.Module) -> None:
        self.memory.follow(encoder)
