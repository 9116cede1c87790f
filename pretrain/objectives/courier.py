"""COURIER: page-view items and recent clicks, reconstructed from the clicks before them (COURIER, arXiv 2306.05001)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_tools.cli import UserError
from pretrain.catalogue import log_shares
from pretrain.distributed import gather, rank
from pretrain.encoder import ImageEncoder
from pretrain.losses import Term, click_cross_entropy, info_nce, negative_cosine, within_page
from pretrain.objectives.base import Objective
from pretrain.reconstruction import MultiHead, history_mean, reconstruct
from pretrain.settings import Settings


class Courier(Objective):
    """L_pv and L_ucs, and where wanted L_ctr, a ranking within the page view, and the paper's ablations.

    ``pv_loss``: each clicked page-view item is found, among all page-view items of the global batch, from its
    reconstruction by the user's history. ``ucs_loss``: the same for the most recent click, from the clicks before it,
    among the most recent clicks of the global batch. ``ctr_loss``: click or not, from a small MLP on [r_j, p_j] (the
    paper's released code; its width D is ours). ``page_loss``: clicked slots above the page view's others by
    cos(p_j, r_j) (ours).
    """

    def __init__(self, settings: Settings, encoder: ImageEncoder) -> None:
        super().__init__(settings, encoder)
        wanted, size = self.settings, encoder.dimensions
        self.sizes = [*wanted.matryoshka, size]
        if not any((wanted.pv_weight, wanted.ucs_weight, wanted.ctr_weight, wanted.page_weight)):
            raise UserError("--objective.pv_weight, ucs_weight, ctr_weight and page_weight are all 0: nothing to learn")
        learned = wanted.reconstruction == "multihead" or wanted.projection or wanted.ctr_weight
        if wanted.matryoshka and (learned or not all(0 < small < size for small in wanted.matryoshka)):
            raise UserError(
                f"--objective.matryoshka {wanted.matryoshka} must hold sizes below the embedding's, {size}, and goes "
                "with neither a multihead reconstruction nor a projection nor ctr_weight, which know one size only"
            )
        if wanted.reconstruction == "multihead":
            if size % wanted.heads:
                raise UserError(f"--objective.heads {wanted.heads} does not divide the embedding's size, {size}")
            self.attention = MultiHead(size, wanted.heads)
        if wanted.projection:
            self.projection = nn.Sequential(
                nn.Linear(size, wanted.projection), nn.ReLU(), nn.Linear(wanted.projection, size)
            )
        if wanted.ctr_weight:
            self.click = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, 1))
        if wanted.log_q:
            for name, share in zip(("page_share", "latest_share"), log_shares(settings.data), strict=True):
                self.register_buffer(name, share, persistent=False)

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """See the class.

        Parameters
        ----------
        embeddings : float tensor (N, D), of the batch's distinct pictures
        batch : with history (B, H), page (B, P), click (B, P) and image_item (N,)
        """
        if self.settings.projection:
            embeddings = self.projection(embeddings)
        by_size = [self._terms(F.normalize(embeddings[:, :size].float(), dim=-1), batch) for size in self.sizes]
        return {
            name: Term(*(sum(parts) / len(parts) for parts in zip(*(terms[name] for terms in by_size), strict=True)))
            for name in by_size[0]
        }

    def _terms(self, unit: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        wanted = self.settings
        history, page, clicked = batch["history"], batch["page"], batch["click"] > 0
        latest, earlier = history[:, -1:], history[:, :-1]
        rebuilt = self._reconstruct(unit, page, history)
        present = (page >= 0) & (history >= 0).any(1, keepdim=True)
        found: dict[str, tuple[float, Term]] = {}
        if wanted.pv_weight:
            share = self.page_share if wanted.log_q else None
            pv = self._retrieve(unit, batch["image_item"], page, clicked, rebuilt, present, share)
            found["pv_loss"] = (wanted.pv_weight, pv)
        if wanted.ucs_weight:
            everything = torch.ones_like(latest, dtype=torch.bool)
            again = self._reconstruct(unit, latest, earlier)
            known = (latest >= 0) & (earlier >= 0).any(1, keepdim=True)
            share = self.latest_share if wanted.log_q else None
            ucs = self._retrieve(unit, batch["image_item"], latest, everything, again, known, share)
            found["ucs_loss"] = (wanted.ucs_weight, ucs)
        if wanted.ctr_weight:
            logits = self.click(torch.cat([rebuilt, unit[page.clamp(min=0)]], dim=-1)).squeeze(-1)
            found["ctr_loss"] = (wanted.ctr_weight, click_cross_entropy(logits, batch["click"], present))
        if wanted.page_weight:
            score = F.cosine_similarity(unit[page.clamp(min=0)], rebuilt, dim=-1)
            copy = ((page[:, :, None] == page[:, None, :]) & clicked[:, None, :]).any(2)
            ranked = within_page(score, clicked & present, present & ~copy, self.temperature)
            found["page_loss"] = (wanted.page_weight, ranked)
        return {name: Term(weight * term.loss, weight * term.chance) for name, (weight, term) in found.items()}

    def _reconstruct(self, unit: Tensor, target: Tensor, history: Tensor) -> Tensor:
        """Targets (B, T) from history (B, H), both indices into ``unit`` with -1 for padding: (B, T, D)."""
        present = history >= 0
        targets, clicks = unit[target.clamp(min=0)], unit[history.clamp(min=0)]
        if self.settings.reconstruction == "multihead":
            return self.attention(targets, clicks, present)
        if self.settings.reconstruction == "mean":
            return history_mean(clicks, present, target.shape[1])
        return reconstruct(targets, clicks, present, self.settings.attention_temperature)[0]

    def _retrieve(
        self,
        unit: Tensor,
        image_item: Tensor,
        target: Tensor,
        clicked: Tensor,
        rebuilt: Tensor,
        known: Tensor,
        log_share: Tensor | None,
    ) -> Term:
        """InfoNCE of targets (B, T), indices into ``unit``, among the targets of the global batch."""
        slots, clicked = target.reshape(-1), (clicked & (target >= 0)).reshape(-1)
        kept = clicked & known.reshape(-1)
        own = unit[slots.clamp(min=0)]
        if not self.settings.contrast:
            return negative_cosine(own, rebuilt.flatten(0, 1), kept)
        item = image_item[slots.clamp(min=0)]
        candidate_item, candidate_clicked = gather(item), gather(clicked)
        positive = torch.arange(len(slots), device=slots.device) + rank() * len(slots)
        return info_nce(
            query=rebuilt.flatten(0, 1),
            query_item=item,
            query_kept=kept,
            candidate=gather(own),
            candidate_item=candidate_item,
            candidate_kept=gather(slots >= 0) if self.settings.unclicked_negatives else candidate_clicked,
            positive=positive,
            temperature=self.temperature,
            bias=self._bias(positive, target.shape[1], candidate_item, candidate_clicked, log_share),
        )

    def _bias(
        self, positive: Tensor, slots: int, item: Tensor, clicked: Tensor, log_share: Tensor | None
    ) -> Tensor | None:
        """What is added to the logits (Q, A): the log-Q correction and the weight of a page view's own negatives.

        The correction takes ln q off every logit, the positive's too, with q an item's share of the candidates
        (sampling-bias-corrected softmax, Yi et al., RecSys 2019).
        """
        bias = None
        if log_share is not None:
            bias = -self.settings.log_q * log_share[item][None, :]
        if self.settings.page_negative_weight != 1:
            row = torch.arange(len(item), device=item.device) // slots
            rivals = (row[positive][:, None] == row[None, :]) & ~clicked[None, :]
            rivals = rivals & (positive[:, None] != torch.arange(len(item), device=item.device)[None, :])
            weight = self.settings.page_negative_weight
            added = rivals * (math.log(weight) if weight else 0.0)
            added = added if weight else added.masked_fill(rivals, float("-inf"))
            bias = added if bias is None else bias + added
        return bias
