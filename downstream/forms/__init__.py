"""Forms of an embedding table: how item embeddings become inputs of a CTR model, one file each.

A form is a module made as ``FORMS[name](images, settings, slots, query_size)`` and called as ``form(batch, ad_ids)``
with a batch of tensors (see ``downstream.data``) and the ID embeddings of the shown items (B, query_size); it returns
features (B, ``form.width``) for the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from data_tools.cli import UserError
from downstream.aggregators import AGGREGATORS
from downstream.forms.simscore import SimScore
from downstream.forms.vector import Vector
from downstream.images import ItemImages


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


FORMS: dict[str, Callable[[ItemImages, ImageSettings, int, int], nn.Module]] = {
    "vector": Vector,
    "simscore": SimScore,
}
