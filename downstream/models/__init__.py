"""CTR models: one file and one line of ``MODELS`` each, with the interface of ``downstream.models.base.CTRModel``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from data_tools.common.cli import UserError
from downstream.data.ctr_data import FIRST_KNOWN, CTRData
from downstream.forms import FORMS, ImageSettings
from downstream.forms.gate import Gated
from downstream.images.joined import ImageEmbedder, ItemImages, make_embedder
from downstream.models.base import CTRModel, ModelSettings
from downstream.models.din import DIN
from downstream.models.dqm import DQM
from downstream.models.dssm import DSSM
from downstream.models.embedding_mlp import EmbeddingMLP
from downstream.models.logistic import Logistic
from downstream.models.mlr import MLR
from downstream.models.multi_scene import STAR, SceneNetworks
from downstream.models.multi_task import ESMM, ESMMTransfer

MODELS: dict[str, type[CTRModel]] = {
    "embedding_mlp": EmbeddingMLP,
    "din": DIN,
    "logistic": Logistic,
    "dicm": EmbeddingMLP,  # the name it goes by where it is given images
    "mlr": MLR,
    "dssm": DSSM,
    "dqm": DQM,
    "esmm": ESMM,
    "esmm_transfer": ESMMTransfer,
    "scene_networks": SceneNetworks,
    "star": STAR,
}


def check_name(name: str) -> None:
    """Raise a UserError if no model has this name."""
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown; one of {sorted(MODELS)} is expected")


def takes_form(name: str, form: str) -> bool:
    """Whether a model can be given images in a form: towers see no pairs of user and item, some forms are of pairs."""
    return MODELS[name].forms is None or form in MODELS[name].forms


@dataclass(frozen=True)
class FormMaker:
    """The :class:`downstream.models.base.MakeImages` of one table and its settings."""

    images: ItemImages
    settings: ImageSettings
    slots: int
    categories: int

    def __call__(self, query_size: int) -> nn.Module:
        if self.settings.gate and self.categories <= FIRST_KNOWN:
            raise UserError("image.gate is one for each category, and the dataset's items have none: switch it off")
        images = self.images.centred() if self.settings.centre else self.images
        form = FORMS[self.settings.form](images, self.settings, self.slots, query_size)
        return Gated(form, self.categories) if self.settings.gate else form

    def embedder(self) -> ImageEmbedder:
        if self.settings.gate:
            raise UserError("image.gate weighs the features of a form, and towers take none: switch it off")
        return make_embedder(self.images, self.settings)


def build_model(data: CTRData, images: ItemImages | None, settings: ModelSettings, form: ImageSettings) -> CTRModel:
    """A model for a dataset, with random weights from torch's global generator; IDs only where ``images`` is None.

    Raises
    ------
    UserError
        If the model cannot be given images in that form, or a gate for each category.
    """
    kind = MODELS[settings.name]
    if images and not takes_form(settings.name, form.form):
        raise UserError(f"model {settings.name!r} takes images in the forms {list(kind.forms)}, not {form.form!r}")
    make_images = FormMaker(images, form, data.settings.history, data.sizes["category"]) if images else None
    model = kind.make(data, settings, make_images)
    if settings.l2:
        model.count(data.occurrences())
    return model
