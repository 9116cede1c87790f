"""Forms of an embedding table: how frozen item embeddings become inputs of a CTR model.

A form is a module called as ``form(batch, ad_ids)`` with a batch of tensors (see ``downstream.data``) and the ID
embeddings of the shown items (B, q); it returns features (B, ``width``) for the model's MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.cli import UserError
from data_tools.table import EmbeddingTable
from downstream.aggregators import AGGREGATORS
from downstream.data import CTRData
from downstream.layers import gather, prelu_mlp


@dataclass(frozen=True)
class ImageSettings:
    """How item embeddings enter the model.

    Attributes
    ----------
    form : "vector" or "simscore"
    aggregator : pooling of the behaviour images in the form "vector"; one of ``downstream.aggregators``
    ad_image, behaviour_images : whether the form "vector" shows the model the item's image, the clicked images
    hidden : widths of the trainable embedding model between the table's size D and ``size``, each cut to 4 D
    size : what the trainable embedding model ends in
    """

    form: str = "vector"
    aggregator: str = "multi_query_attentive"
    ad_image: bool = True
    behaviour_images: bool = True
    hidden: tuple[int, ...] = (256, 64)
    size: int = 12

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"form {self.form!r} is unknown; one of {sorted(FORMS)} is expected")
        if self.aggregator not in AGGREGATORS:
            raise UserError(f"aggregator {self.aggregator!r} is unknown; one of {sorted(AGGREGATORS)} is expected")
        if not (self.ad_image or self.behaviour_images):
            raise UserError("ad_image and behaviour_images are both off: leave the table out instead")


@dataclass(frozen=True)
class ItemImages:
    """An embedding table joined to a dataset's items.

    Attributes
    ----------
    vectors : float32 (items, D), zeros where the table lacks the item; never shown to a model as they are
    found : bool (items,)
    seen : bool (items,), shown in training; whatever is fitted to the vectors is fitted on these
    """

    vectors: np.ndarray
    found: np.ndarray
    seen: np.ndarray


def join_table(table: EmbeddingTable, data: CTRData) -> ItemImages:
    """The table's vectors in the order of the dataset's items.

    Raises
    ------
    UserError
        If the table has none of the items that training shows.
    """
    vectors, found = table.lookup(data.item_ids)
    if not (found & data.seen).any():
        raise UserError(
            f"the table's ids (such as {table.ids[:3]}) are none of the item ids shown in training "
            f"(such as {data.item_ids[:3]}); it was made from another dataset"
        )
    return ItemImages(vectors, found, data.seen)


class Vector(nn.Module):
    """DICM's use of images: one trainable embedding model for the ad image and the behaviour images.

    D-256-64-12 with PReLU as in arXiv 1711.06505 (there D = 4096). Ours: raw features are centred and brought to unit
    variance by one factor, both from training-time items, so that tables of any scale train alike; items without a
    vector get a learned one after the embedding model.
    """

    def __init__(self, images: ItemImages, settings: ImageSettings, slots: int, query_size: int) -> None:
        super().__init__()
        fitted = images.vectors[images.found & images.seen]
        centre = fitted.mean(axis=0)
        scale = max(float((fitted - centre).std()), 1e-6)
        # The table stays on disk: its vectors are no part of the model's own weights.
        self.register_buffer("raw", torch.from_numpy((images.vectors - centre) / scale), persistent=False)
        self.register_buffer("found", torch.from_numpy(images.found), persistent=False)
        size, raw_size = settings.size, images.vectors.shape[1]
        self.embed = prelu_mlp([raw_size, *(min(width, 4 * raw_size) for width in settings.hidden)], size)
        self.no_image = nn.Parameter(torch.zeros(size))
        self.pool = None
        if settings.behaviour_images:
            self.pool = AGGREGATORS[settings.aggregator](size, slots, query_size)
        self.ad_image = settings.ad_image
        self.width = size * self.ad_image + (self.pool.width if self.pool else 0)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        row = batch["row"]
        distinct = torch.where(self.found[row, None], self.embed(self.raw[row]), self.no_image)
        ad = gather(distinct, batch["target"])
        features = [ad] if self.ad_image else []
        if self.pool:
            features.append(self.pool(gather(distinct, batch["history"]), batch["mask"], ad, ad_ids))
        return torch.cat(features, dim=-1)


class SimScore(nn.Module):
    """Cosine of the shown item's vector with each clicked item's, most recent first (COURIER, arXiv 2306.05001).

    Features: the cosine and whether there is one for each of the H slots; their mean, their largest, and whether
    there is any. Slots where either image is missing have no cosine. Ours: mean and largest, and that cosines are
    standardised by the mean and spread of all pairs of training-time items, which encoders differ in a lot.
    """

    def __init__(self, images: ItemImages, settings: ImageSettings, slots: int, query_size: int) -> None:
        super().__init__()
        norms = np.linalg.norm(images.vectors, axis=1, keepdims=True)
        unit = images.vectors / np.maximum(norms, 1e-12)
        fitted = unit[images.found & images.seen].astype(np.float64)
        # Over all pairs, E[cos] = |mean|^2 and E[cos^2] = |X'X / n|^2 (Frobenius): no pair has to be visited.
        self.mean = float(np.square(fitted.mean(axis=0)).sum())
        second = float(np.square(fitted.T @ fitted / len(fitted)).sum())
        self.spread = max(second - self.mean**2, 1e-12) ** 0.5
        self.register_buffer("unit", torch.from_numpy(unit), persistent=False)
        self.register_buffer("found", torch.from_numpy(images.found), persistent=False)
        self.width = 2 * slots + 3

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        unit, found = self.unit[batch["row"]], self.found[batch["row"]]
        target, history = batch["target"], batch["history"]
        known = batch["mask"] & found[history] & found[target, None]
        row, slot = known.nonzero(as_tuple=True)
        cosines = (unit[target[row]] * unit[history[row, slot]]).sum(dim=-1)
        scores = torch.zeros(known.shape, device=unit.device)
        scores[row, slot] = (cosines - self.mean) / self.spread
        some = known.any(dim=1, keepdim=True)
        mean = scores.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
        largest = scores.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True).where(some, 0.0)
        return torch.cat([scores, known.float(), mean, largest, some.float()], dim=-1)


FORMS: dict[str, Callable[[ItemImages, ImageSettings, int, int], nn.Module]] = {
    "vector": Vector,
    "simscore": SimScore,
}
