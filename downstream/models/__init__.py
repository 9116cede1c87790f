"""CTR models: one file and one line of ``MODELS`` each, with the interface of ``downstream.models.base.CTRModel``."""

from __future__ import annotations

from data_tools.cli import UserError
from downstream.data import CTRData
from downstream.forms import FORMS, ImageSettings
from downstream.images import ItemImages
from downstream.models.base import CTRModel, ModelSettings
from downstream.models.embedding_mlp import EmbeddingMLP

MODELS: dict[str, type[CTRModel]] = {
    "embedding_mlp": EmbeddingMLP,
    "dicm": EmbeddingMLP,  # the name it goes by where it is given images
}


def check_name(name: str) -> None:
    """Raise a UserError if no model has this name."""
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown; one of {sorted(MODELS)} is expected")


def build_model(data: CTRData, images: ItemImages | None, settings: ModelSettings, form: ImageSettings) -> CTRModel:
    """A model for a dataset, with random weights from torch's global generator; IDs only where ``images`` is None."""
    slots = data.settings.history
    make = (lambda query_size: FORMS[form.form](images, form, slots, query_size)) if images else None
    return MODELS[settings.name](data.sizes, settings, make, slots)
