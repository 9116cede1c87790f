"""A CTR model built for a dataset and its images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from data_tools.common.errors import UserError
from data_tools.common.plugins import options_of
from downstream.ams.joining import ServedImages
from downstream.data.codes import FIRST_KNOWN
from downstream.data.ctr_data import CTRData
from downstream.forms.base import Form
from downstream.forms.gate import Gated
from downstream.forms.registry import make_form
from downstream.images.embedder import make_embedder
from downstream.images.joined import ItemImages
from downstream.models.base import CTRModel
from downstream.models.registry import MODELS
from downstream.settings import ImageSettings, ModelSettings


@dataclass(frozen=True)
class FormMaker:
    """The :class:`downstream.models.base.MakeImages` of one table and its settings.

    Attributes
    ----------
    images : ItemImages or ServedImages
        The table, joined to the dataset's items.
    settings : ImageSettings
        How it enters the model.
    slots : int
        H, the slots of a history.
    categories : int
        Number of category codes.
    """

    images: ItemImages | ServedImages
    settings: ImageSettings
    slots: int
    categories: int

    def __call__(self, query_size: int) -> Form:
        if self.settings.gate and self.categories <= FIRST_KNOWN:
            raise UserError("image.gate learns a gate for each category, but the dataset's items have none: remove it")
        images = self.images.centred() if self.settings.centre else self.images
        form = make_form(images, self.settings, slots=self.slots, query_size=query_size)
        return Gated(form, self.categories) if self.settings.gate else form

    def embedder(self) -> nn.Module:
        return make_embedder(self.images, self.settings)


def build_model(
    data: CTRData, images: ItemImages | ServedImages | None, model: ModelSettings, image: ImageSettings
) -> CTRModel:
    """A model for a dataset, with random weights from torch's global generator.

    Parameters
    ----------
    data : CTRData
        The dataset.
    images : ItemImages or ServedImages
        Of :func:`downstream.images.reading.join`; None for IDs only.
    model : ModelSettings
        The network.
    image : ImageSettings
        How the images enter it.

    Raises
    ------
    UserError
        If the dataset lacks what the model, or a gate for each category, needs.
    """
    make_images = FormMaker(images, image, data.settings.history, data.sizes["category"]) if images else None
    built = MODELS[model.name].make(data, model, options_of(model, model.name), make_images)
    if model.l2:
        built.count(data.occurrences())
    return built
