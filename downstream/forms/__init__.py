"""Forms of an embedding table: how item embeddings become inputs of a CTR model, one file each.

A form is a module of ``downstream.forms.base.Form``, made as ``FORMS[name](images, settings, slots, query_size)`` and
called as ``form(batch, ad_ids)`` with a batch of tensors (see ``downstream.data.ctr_data``) and the ID embeddings of
the shown items (B, query_size); it returns features (B, ``form.width``) for the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_tools.common.cli import UserError
from downstream.forms.aggregators import AGGREGATORS
from downstream.forms.base import Form
from downstream.forms.cluster_id import ClusterID
from downstream.forms.make import Make
from downstream.forms.side_by_side import side_by_side
from downstream.forms.simscore import SimScore
from downstream.forms.simtier import SimTier
from downstream.forms.vector import Vector
from downstream.images.tuning import TUNES


@dataclass(frozen=True)
class ImageSettings:
    """How item embeddings enter the model.

    Attributes
    ----------
    form : how; one of ``FORMS``
    tune : what the click teaches: nothing ("frozen"), the vectors ("table") or what made them of pictures ("encoder")
    weights : with tune "encoder", the encoder's weights; by default where table.json says that they are
    lr : learning rate of what ``tune`` names; by default that of the rest
    centre : whether vectors of length 1 lose their mean over training-time items before they are compared; for forms
        that do not do so by themselves
    gate : whether the features are weighted by a learned gate for each category, which the run's summary tells
    aggregator : pooling of the clicked items in "vector" and "cluster_id"; one of ``downstream.forms.aggregators``
    ad_image, behaviour_images : whether these two forms show the model the shown item, the clicked ones
    hidden : widths of the trainable embedding model between the table's size D and ``size``, each cut to 4 D
    size : what the trainable embedding model ends in, and of the embedding of a cluster's ID
    bins : of the histogram of "simtier"
    clusters : of "cluster_id": clusters of each clustering, each cut to a quarter of the training-time items
    levels : of "cluster_id": 1 for the nearest centre, more for residual k-means
    make_hidden, make_epochs : of "make": widths of the multimodal model's MLP, and the most epochs it is trained
    """

    form: str = "vector"
    tune: str = "frozen"
    weights: str | None = None
    lr: float | None = None
    centre: bool = False
    gate: bool = False
    aggregator: str = "multi_query_attentive"
    ad_image: bool = True
    behaviour_images: bool = True
    hidden: tuple[int, ...] = (256, 64)
    size: int = 12
    bins: int = 20
    clusters: tuple[int, ...] = (20, 100)
    levels: int = 1
    make_hidden: tuple[int, ...] = (64, 32)
    make_epochs: int = 5

    def __post_init__(self) -> None:
        for name, known in (("form", FORMS), ("tune", TUNES), ("aggregator", AGGREGATORS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is unknown; one of {sorted(known)} is expected")
        if self.tune != "frozen" and not FORMS[self.form].tunable:
            tunable = sorted(name for name, form in FORMS.items() if form.tunable)
            raise UserError(
                f"tune is {self.tune!r}, but no gradient reaches the table through the form {self.form!r}; "
                f"use tune 'frozen', or one of the forms {tunable}"
            )
        if self.lr is not None and (self.tune == "frozen" or self.lr <= 0):
            raise UserError(
                f"image.lr is {self.lr} with tune {self.tune!r}; a rate above 0 of what tune learns is expected"
            )
        if self.weights and self.tune != "encoder":
            raise UserError(f"image.weights is {self.weights} with tune {self.tune!r}; only tune 'encoder' reads them")
        if self.centre and (FORMS[self.form].centres or self.tune == "encoder"):
            raise UserError(
                f"image.centre with form {self.form!r} and tune {self.tune!r}: the forms "
                f"{sorted(name for name, form in FORMS.items() if form.centres)} centre the vectors by themselves, and "
                "those of a tuned encoder have no fixed mean; leave centre out"
            )
        if not (self.ad_image or self.behaviour_images):
            raise UserError("ad_image and behaviour_images are both off: leave the table out instead")
        if not ((self.ad_image and self.behaviour_images) or FORMS[self.form].switches):
            raise UserError(
                f"the form {self.form!r} compares ad image and behaviour images: neither can be switched off"
            )
        if self.bins < 2:
            raise UserError(f"bins is {self.bins}; 2 or more are expected")
        if not self.clusters or min(self.clusters) < 2 or self.levels < 1:
            raise UserError(
                f"clusters is {self.clusters} and levels {self.levels}; 2 or more each, and 1 or more, are expected"
            )
        if not self.make_hidden or min(*self.make_hidden, self.make_epochs) < 1:
            raise UserError(
                f"make_hidden is {self.make_hidden} and make_epochs {self.make_epochs}; 1 or more are expected"
            )


FORMS: dict[str, type[Form]] = {
    "vector": Vector,
    "simscore": SimScore,
    "simtier": SimTier,
    "cluster_id": ClusterID,
    "make": Make,
    "simtier_make": side_by_side(SimTier, Make),  # as arXiv 2407.19467 has them, together
}
