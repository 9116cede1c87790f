"""SimCLR: two views of a catalogue picture find each other; knows pictures, not behaviour (a generic baseline)."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.objectives.base import Contrastive, Temperature
from pretrain.objectives.parts.losses import Term, info_nce
from pretrain.runtime.distributed import gather, rank


class SimClr(Contrastive):
    """Two views of a catalogue picture find each other (SimCLR, arXiv 2002.05709).

    NT-Xent over the global batch (equation 1 of the paper).

    A view's softmax leaves out the view itself: it is the same item as the positive, and so no negative.
    """

    batches = "items"
    Settings = Temperature

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """``simclr_loss``.

        Parameters
        ----------
        embeddings : float tensor (2n, D)
            First views of n pictures, then their second views in the same order.
        batch : dict of tensors
            With image_item (2n,).
        """
        item = batch["image_item"]
        count = len(item)
        everything = torch.ones(count, dtype=torch.bool, device=item.device)
        return {
            "simclr_loss": info_nce(
                query=embeddings,
                query_item=item,
                query_kept=everything,
                candidate=gather(embeddings),
                candidate_item=gather(item),
                candidate_kept=gather(everything),
                positive=torch.arange(count, device=item.device).roll(count // 2) + rank() * count,
                temperature=self.temperature,
            )
        }
