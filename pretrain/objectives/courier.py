"""COURIER: page-view items and clicks, reconstructed from the clicks before them (COURIER, arXiv 2306.05001)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from data_tools.common.cli import UserError
from pretrain.data.records import log_shares
from pretrain.objectives.base import Context, Contrastive, Temperature
from pretrain.objectives.parts.losses import Term, click_cross_entropy, info_nce, negative_cosine, within_page
from pretrain.objectives.parts.momentum import MomentumQueue
from pretrain.objectives.parts.reconstruction import MultiHead, history_mean, reconstruct
from pretrain.objectives.parts.targets import (
    Candidates,
    Rivals,
    Targets,
    click_targets,
    copies_of_clicked,
    same_request,
)
from pretrain.runtime.distributed import gather, rank


class Courier(Contrastive):
    """A page view's clicks found from their reconstruction by the user's history (COURIER, arXiv 2306.05001).

    ``pv_loss``: each clicked page-view item is found, among all page-view items of the global batch, from its
    reconstruction by the user's history. ``ucs_loss``: the same for each fresh click (see :func:`click_targets`), from
    the clicks before it, among the fresh clicks of the global batch except the others of its own request: the user
    chose those, too, and the earlier ones make up its reconstruction (leaving them out is our choice). ``ctr_loss``:
    click or not, from a small MLP on [r_j, p_j] (the paper's released code; its width D is our choice). ``page_loss``:
    clicked slots above the page view's others by cos(p_j, r_j) (ours).
    """

    @dataclass(frozen=True)
    class Settings(Temperature):
        """Options of courier.

        Attributes
        ----------
        attention_temperature : float
            Temperature of the softmax over the history in the reconstruction. Low values let a target pick its own
            look-alike from the history: the loss falls without any taste being learned.
        pv_weight : float
            Weight of the page-view loss.
        ucs_weight : float
            Weight of the user-click-sequence loss.
        ctr_weight : float
            Weight of the click prediction from target and reconstruction.
        page_weight : float
            Weight of ranking, within a page view, clicked slots above the others by cos(p, r).
        reconstruction : str
            "attention" (projection-free), "multihead" (learned projections) or "mean" (of the history, whatever the
            target).
        heads : int
            Heads of the multihead reconstruction.
        contrast : bool
            False only pulls targets and reconstructions together, as an ablation: this collapses.
        unclicked_negatives : bool
            Whether page-view items that were not clicked are negatives.
        page_negative_weight : float
            Weight, in the softmax, of the unclicked items of the target's own page view.
        page_positives : bool
            Whether the page view's other clicks are further positives of a clicked slot, not negatives.
        queue : int
            Page-view items remembered from earlier steps as further negatives of the page-view loss; 0 keeps none.
        momentum : float
            Share of itself that the slow encoder, which makes the remembered keys, keeps at each step.
        log_q : float
            Strength of the correction for popular items, which are in more batches: 0 for none, 1 for all of it.
        projection : int
            Hidden width of a projection head that losses see and the table does not; 0 has none.
        matryoshka : list of int
            Further sizes, each below the embedding's: the embedding cut to its first numbers, as many as that size, is
            trained to serve alone.
        """

        attention_temperature: PositiveFloat = 1.0
        pv_weight: NonNegativeFloat = 1.0
        ucs_weight: NonNegativeFloat = 1.0
        ctr_weight: NonNegativeFloat = 0.0
        page_weight: NonNegativeFloat = 0.0
        reconstruction: Literal["attention", "multihead", "mean"] = "attention"
        heads: PositiveInt = 4
        contrast: bool = True
        unclicked_negatives: bool = True
        page_negative_weight: NonNegativeFloat = 1.0
        page_positives: bool = False
        queue: NonNegativeInt = 0
        momentum: ClosedUnitInterval = 0.99
        log_q: NonNegativeFloat = 0.0
        projection: NonNegativeInt = 0
        matryoshka: list[PositiveInt] = field(default_factory=list)

        def __post_init__(self) -> None:
            super().__post_init__()
            if not any((self.pv_weight, self.ucs_weight, self.ctr_weight, self.page_weight)):
                raise UserError(
                    "--objective.courier.pv_weight, ucs_weight, ctr_weight and page_weight are all 0: nothing to learn"
                )
            if self.learn_temperature and not self.contrast:
                raise UserError(
                    "--objective.courier.learn_temperature needs --objective.courier.contrast: without it no "
                    "temperature is used"
                )
            if self.matryoshka and (self.reconstruction == "multihead" or self.projection or self.ctr_weight):
                raise UserError(
                    "--objective.courier.matryoshka cannot be combined with a multihead reconstruction, a projection "
                    "or a ctr_weight: their layers have one size only"
                )
            if self.queue and (self.matryoshka or self.projection or not (self.pv_weight and self.contrast)):
                raise UserError(
                    "--objective.courier.queue cannot be combined with matryoshka or projection, since its keys are "
                    "whole embeddings, and needs a pv_weight and contrast, whose negatives they are"
                )

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        encoder, size = context.encoder, context.encoder.dimensions
        self.sizes = [*options.matryoshka, size]
        if any(small >= size for small in options.matryoshka):
            raise UserError(
                f"--objective.courier.matryoshka {options.matryoshka} must hold sizes below the embedding's, {size}"
            )
        if options.reconstruction == "multihead":
            if size % options.heads:
                raise UserError(
                    f"--objective.courier.heads {options.heads} does not divide the embedding's size, {size}"
                )
            self.attention = MultiHead(size, options.heads)
        if options.projection:
            self.projection = nn.Sequential(
                nn.Linear(size, options.projection), nn.ReLU(), nn.Linear(options.projection, size)
            )
        if options.ctr_weight:
            self.click = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, 1))
        if options.queue:
            self.memory = MomentumQueue(encoder, options.queue, options.momentum)
        if options.log_q:
            shares = log_shares(context.data, context.history, context.slots)
            for name, share in zip(("page_share", "click_share"), shares, strict=True):
                self.register_buffer(name, share, persistent=False)

    @classmethod
    def collapse_causes(cls, options: Settings) -> list[str]:
        if options.contrast:
            return []
        return [
            "objective.courier.contrast is false: without negatives the reconstruction is best when all embeddings are "
            "equal (set it to true)"
        ]

    @classmethod
    def attention_temperature(cls, options: Settings) -> float | None:
        return options.attention_temperature if options.reconstruction == "attention" else None

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """See the class.

        Parameters
        ----------
        embeddings : float tensor (N, D)
            Of the batch's distinct pictures.
        batch : dict of tensors
            With history (B, H), fresh (B,), page (B, P), click (B, P) and image_item (N,).
        """
        if self.options.projection:
            embeddings = self.projection(embeddings)
        clicks = click_targets(batch["history"], batch["fresh"]) if self.options.ucs_weight else None
        by_size = [self._terms(F.normalize(embeddings[:, :size].float(), dim=-1), batch, clicks) for size in self.sizes]
        return {
            name: Term(*(sum(parts) / len(parts) for parts in zip(*(terms[name] for terms in by_size), strict=True)))
            for name in by_size[0]
        }

    def _terms(
        self, unit: Tensor, batch: dict[str, Tensor], clicks: tuple[Tensor, Tensor, Tensor] | None
    ) -> dict[str, Term]:
        """The weighted terms of unit embeddings (N, D); ``clicks`` are those of :func:`click_targets`, where needed."""
        options, history, page = self.options, batch["history"], batch["page"]
        rebuilt = self._reconstruct(unit, page, history)
        present = (page >= 0) & (history >= 0).any(1, keepdim=True)
        terms: dict[str, tuple[float, Callable[[], Term]]] = {
            "pv_loss": (options.pv_weight, lambda: self._page_view_term(unit, batch, rebuilt, present)),
            "ucs_loss": (options.ucs_weight, lambda: self._click_sequence_term(unit, batch, *clicks)),
            "ctr_loss": (options.ctr_weight, lambda: self._click_term(unit, batch, rebuilt, present)),
            "page_loss": (options.page_weight, lambda: self._ranking_term(unit, batch, rebuilt, present)),
        }
        found = {name: (weight, term()) for name, (weight, term) in terms.items() if weight}
        return {name: Term(weight * term.loss, weight * term.chance) for name, (weight, term) in found.items()}

    def _page_view_term(self, unit: Tensor, batch: dict[str, Tensor], rebuilt: Tensor, present: Tensor) -> Term:
        """Clicked slots among all slots of the global batch; the queue takes them in afterwards."""
        page, clicked = batch["page"], batch["click"] > 0
        row = torch.arange(len(page), device=page.device).repeat_interleave(page.shape[1])
        shown = Targets(page.flatten(), row, clicked.flatten(), rebuilt.flatten(0, 1), present.flatten())
        share = self.page_share if self.options.log_q else None
        rivals = Rivals(~shown.clicked, self.options.page_negative_weight)
        term = self._retrieve(unit, batch, shown, rivals, log_share=share, page_view=True)
        if self.options.queue:
            self._remember(batch, shown)
        return term

    def _click_sequence_term(
        self, unit: Tensor, batch: dict[str, Tensor], row: Tensor, target: Tensor, earlier: Tensor
    ) -> Term:
        """Fresh clicks among those of the global batch, except the others of their own request."""
        rebuilt = self._reconstruct(unit, target[:, None], earlier).squeeze(1)
        everything = torch.ones_like(target, dtype=torch.bool)
        chosen = Targets(target, row, everything, rebuilt, (earlier >= 0).any(1))
        share = self.click_share if self.options.log_q else None
        return self._retrieve(unit, batch, chosen, Rivals(everything, 0.0), log_share=share, page_view=False)

    def _click_term(self, unit: Tensor, batch: dict[str, Tensor], rebuilt: Tensor, present: Tensor) -> Term:
        """Click or not, from target and reconstruction."""
        logits = self.click(torch.cat([rebuilt, unit[batch["page"].clamp(min=0)]], dim=-1)).squeeze(-1)
        return click_cross_entropy(logits, batch["click"], present)

    def _ranking_term(self, unit: Tensor, batch: dict[str, Tensor], rebuilt: Tensor, present: Tensor) -> Term:
        """Clicked slots above the others of their page view."""
        page, clicked = batch["page"].clamp(min=0), batch["click"] > 0
        score = F.cosine_similarity(unit[page], rebuilt, dim=-1)
        copies = copies_of_clicked(batch["image_item"][page], clicked)
        return within_page(score, clicked & present, present & ~copies, self.temperature)

    def _reconstruct(self, unit: Tensor, target: Tensor, history: Tensor) -> Tensor:
        """Targets (B, T) from history (B, H), both indices into ``unit`` with -1 for padding: (B, T, D)."""
        present = history >= 0
        targets, clicks = unit[target.clamp(min=0)], unit[history.clamp(min=0)]
        if self.options.reconstruction == "multihead":
            return self.attention(targets, clicks, present)
        if self.options.reconstruction == "mean":
            return history_mean(clicks, present, target.shape[1])
        return reconstruct(targets, clicks, present, self.options.attention_temperature)[0]

    def _retrieve(
        self,
        unit: Tensor,
        batch: dict[str, Tensor],
        targets: Targets,
        rivals: Rivals,
        *,
        log_share: Tensor | None,
        page_view: bool,
    ) -> Term:
        """InfoNCE of the targets among those of the global batch, and for page views among those in memory."""
        clicked = targets.clicked & (targets.index >= 0)
        kept = clicked & targets.known
        own = unit[targets.index.clamp(min=0)]
        if not self.options.contrast:
            return negative_cosine(own, targets.rebuilt, kept)
        item = batch["image_item"][targets.index.clamp(min=0)]
        # Few slots are clicked: the logits are of those alone.
        asked = kept.nonzero().squeeze(1)
        positive = asked + rank() * len(item)
        several = page_view and self.options.page_positives
        bias, further = same_request(targets, rivals, positive, len(batch["history"]), several=several)
        known = targets.index >= 0 if self.options.unclicked_negatives else clicked
        candidates = Candidates(gather(own), gather(item), gather(known))
        if page_view and self.options.queue:
            candidates = self._with_remembered(candidates)
            bias, further = (None if mask is None else F.pad(mask, (0, self.options.queue)) for mask in (bias, further))
        if log_share is not None:
            # The correction takes ln q off every logit, the positive's too, with q an item's share of the candidates
            # (sampling-bias-corrected softmax, Yi et al., RecSys 2019).
            popular = -self.options.log_q * log_share[candidates.item][None, :]
            bias = popular if bias is None else bias + popular
        return info_nce(
            query=targets.rebuilt[asked],
            query_item=item[asked],
            query_kept=kept[asked],
            candidate=candidates.vector,
            candidate_item=candidates.item,
            candidate_kept=candidates.kept,
            positive=positive,
            temperature=self.temperature,
            bias=bias,
            further=further,
        )

    def _with_remembered(self, candidates: Candidates) -> Candidates:
        """The candidates, and behind them the page-view items of earlier steps."""
        queue = self.memory
        return Candidates(
            torch.cat([candidates.vector, queue.key]),
            torch.cat([candidates.item, queue.item]),
            torch.cat([candidates.kept, queue.item >= 0]),
        )

    def _remember(self, batch: dict[str, Tensor], shown: Targets) -> None:
        """Put the page views' pictures, as the slow encoder sees them, into the queue."""
        wanted = (shown.index >= 0) & (shown.clicked | self.options.unclicked_negatives)
        key = gather(self.memory.encode(batch["images"], shown.index.clamp(min=0), wanted))
        item, wanted = gather(batch["image_item"][shown.index.clamp(min=0)]), gather(wanted)
        self.memory.remember(key[wanted], item[wanted])

    def after_step(self, encoder: nn.Module) -> None:
        if self.options.queue:
            self.memory.follow(encoder)
