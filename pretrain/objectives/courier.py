"""COURIER: page-view items and clicks, reconstructed from the clicks before them (COURIER, arXiv 2306.05001)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_tools.common.cli import UserError
from pretrain.data.records import log_shares
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.objectives.base import Objective
from pretrain.objectives.parts.losses import Term, click_cross_entropy, info_nce, negative_cosine, within_page
from pretrain.objectives.parts.momentum import MomentumQueue
from pretrain.objectives.parts.reconstruction import MultiHead, history_mean, reconstruct
from pretrain.runtime.distributed import gather, largest, rank
from pretrain.settings import Settings


class Targets(NamedTuple):
    """What is to be found from its reconstruction, and padding.

    Attributes
    ----------
    index : long tensor (n,), into the batch's distinct pictures, -1 for padding
    row : long tensor (n,), the request of this process that each is of
    clicked : bool tensor (n,)
    rebuilt : float tensor (n, D)
    known : bool tensor (n,), whether there are clicks to rebuild it from
    """

    index: Tensor
    row: Tensor
    clicked: Tensor
    rebuilt: Tensor
    known: Tensor


def click_targets(history: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each fresh click with the clicks before it alone, so that it is rebuilt from neither itself nor later ones.

    Over the training requests each click is fresh once, and so a target once, as COURIER's order asks, as far as it is
    in the history of a batch and has a click before it there.

    Parameters
    ----------
    history : long tensor (B, H), oldest first, right-aligned, -1 for padding
    fresh : long tensor (B,), how many of the last clicks are new since the user's request before

    Returns
    -------
    row : long tensor (M,), the request; M is the same in all processes, at least 1, and filled up with padding
    target : long tensor (M,), the click; -1 for padding
    earlier : long tensor (M, H), the clicks before it; -1 for padding
    """
    place = torch.arange(history.shape[1], device=history.device)
    row, slot = ((history >= 0) & (place >= len(place) - fresh[:, None])).nonzero(as_tuple=True)
    earlier = history[row].masked_fill(place >= slot[:, None], -1)
    padding = largest(max(len(row), 1), history.device) - len(row)
    target = F.pad(history[row, slot], (0, padding), value=-1)
    return F.pad(row, (0, padding)), target, F.pad(earlier, (0, 0, 0, padding), value=-1)


class Courier(Objective):
    """L_pv and L_ucs, and where wanted L_ctr, a ranking within the page view, and the paper's ablations.

    ``pv_loss``: each clicked page-view item is found, among all page-view items of the global batch, from its
    reconstruction by the user's history. ``ucs_loss``: the same for each fresh click (see :func:`click_targets`), from
    the clicks before it, among the fresh clicks of the global batch but the others of its own request: the user chose
    those, too, and the earlier ones make up its reconstruction (leaving them out is ours). ``ctr_loss``: click or not,
    from a small MLP on [r_j, p_j] (the paper's released code; its width D is ours). ``page_loss``: clicked slots above
    the page view's others by cos(p_j, r_j) (ours).
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
        if wanted.queue:
            if wanted.matryoshka or wanted.projection or not (wanted.pv_weight and wanted.contrast):
                raise UserError(
                    "--objective.queue goes with neither matryoshka nor projection, since its keys are whole "
                    "embeddings, and needs a pv_weight and contrast, whose negatives they are"
                )
            self.memory = MomentumQueue(encoder, wanted.queue, wanted.momentum)
        if wanted.log_q:
            for name, share in zip(
                ("page_share", "click_share"), log_shares(settings.data, settings.batch), strict=True
            ):
                self.register_buffer(name, share, persistent=False)

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """See the class.

        Parameters
        ----------
        embeddings : float tensor (N, D), of the batch's distinct pictures
        batch : with history (B, H), fresh (B,), page (B, P), click (B, P) and image_item (N,)
        """
        if self.settings.projection:
            embeddings = self.projection(embeddings)
        clicks = click_targets(batch["history"], batch["fresh"]) if self.settings.ucs_weight else None
        by_size = [self._terms(F.normalize(embeddings[:, :size].float(), dim=-1), batch, clicks) for size in self.sizes]
        return {
            name: Term(*(sum(parts) / len(parts) for parts in zip(*(terms[name] for terms in by_size), strict=True)))
            for name in by_size[0]
        }

    def _terms(
        self, unit: Tensor, batch: dict[str, Tensor], clicks: tuple[Tensor, Tensor, Tensor] | None
    ) -> dict[str, Term]:
        wanted = self.settings
        history, page, clicked = batch["history"], batch["page"], batch["click"] > 0
        rebuilt = self._reconstruct(unit, page, history)
        present = (page >= 0) & (history >= 0).any(1, keepdim=True)
        found: dict[str, tuple[float, Term]] = {}
        if wanted.pv_weight:
            row = torch.arange(len(page), device=page.device).repeat_interleave(page.shape[1])
            shown = Targets(page.flatten(), row, clicked.flatten(), rebuilt.flatten(0, 1), present.flatten())
            share = self.page_share if wanted.log_q else None
            pv = self._retrieve(unit, batch, shown, ~shown.clicked, wanted.page_negative_weight, share, True)
            found["pv_loss"] = (wanted.pv_weight, pv)
            if wanted.queue:
                self._remember(batch, shown)
        if wanted.ucs_weight:
            row, target, earlier = clicks
            again = self._reconstruct(unit, target[:, None], earlier).squeeze(1)
            everything = torch.ones_like(target, dtype=torch.bool)
            chosen = Targets(target, row, everything, again, (earlier >= 0).any(1))
            share = self.click_share if wanted.log_q else None
            found["ucs_loss"] = (wanted.ucs_weight, self._retrieve(unit, batch, chosen, everything, 0.0, share, False))
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
        batch: dict[str, Tensor],
        targets: Targets,
        rival: Tensor,
        weight: float,
        log_share: Tensor | None,
        page_view: bool,
    ) -> Term:
        """InfoNCE of the targets among those of the global batch, and for page views among those in memory.

        ``rival`` (bool, n) marks those that count ``weight`` times in the softmax of another target of their request.
        """
        clicked = targets.clicked & (targets.index >= 0)
        kept = clicked & targets.known
        own = unit[targets.index.clamp(min=0)]
        if not self.settings.contrast:
            return negative_cosine(own, targets.rebuilt, kept)
        item = batch["image_item"][targets.index.clamp(min=0)]
        candidate, candidate_item = gather(own), gather(item)
        candidate_kept = gather(targets.index >= 0 if self.settings.unclicked_negatives else clicked)
        positive = torch.arange(len(item), device=item.device) + rank() * len(item)
        several = page_view and self.settings.page_positives
        bias = further = None
        if several or weight != 1:
            row = gather(targets.row + rank() * len(batch["history"]))
            together = row[positive][:, None] == row[None, :]
        if several:
            further = together & gather(clicked)[None, :]
        if weight != 1:
            rivals = (together & gather(rival)[None, :]).scatter(1, positive[:, None], False)
            bias = torch.zeros(rivals.shape, device=rivals.device)
            bias = bias.masked_fill(rivals, math.log(weight) if weight else float("-inf"))
        if page_view and self.settings.queue:
            length = self.settings.queue
            candidate = torch.cat([candidate, self.memory.key])
            candidate_item = torch.cat([candidate_item, self.memory.item])
            candidate_kept = torch.cat([candidate_kept, self.memory.item >= 0])
            bias, further = (F.pad(mask, (0, length)) if mask is not None else None for mask in (bias, further))
        # The correction takes ln q off every logit, the positive's too, with q an item's share of the candidates
        # (sampling-bias-corrected softmax, Yi et al., RecSys 2019).
        if log_share is not None:
            popular = -self.settings.log_q * log_share[candidate_item][None, :]
            bias = popular if bias is None else bias + popular
        return info_nce(
            query=targets.rebuilt,
            query_item=item,
            query_kept=kept,
            candidate=candidate,
            candidate_item=candidate_item,
            candidate_kept=candidate_kept,
            positive=positive,
            temperature=self.temperature,
            bias=bias,
            further=further,
        )

    def _remember(self, batch: dict[str, Tensor], shown: Targets) -> None:
        """Put the page views' pictures, as the slow encoder sees them, into the queue."""
        wanted = (shown.index >= 0) & (shown.clicked | self.settings.unclicked_negatives)
        key = gather(self.memory.encode(batch["images"], shown.index.clamp(min=0), wanted))
        item, wanted = gather(batch["image_item"][shown.index.clamp(min=0)]), gather(wanted)
        self.memory.remember(key[wanted], item[wanted])

    def after_step(self, encoder: ImageEncoder) -> None:
        if self.settings.queue:
            self.memory.follow(encoder)
