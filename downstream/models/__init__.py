"""CTR models: each one file, all called as ``model(batch) -> logits`` on a dict of tensors (``downstream.data``)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from data_tools.cli import UserError
from downstream.data import CTRData
from downstream.features import ImageSettings, ItemImages
from downstream.models.dicm import DICM
from downstream.models.embedding_mlp import EmbeddingMLP


@dataclass(frozen=True)
class ModelSettings:
    """The network.

    Attributes
    ----------
    name : "embedding_mlp" (IDs only) or "dicm" (the same with images, where a table is given)
    embedding : size of each ID embedding
    hidden : widths of the MLP
    """

    name: str = "dicm"
    embedding: int = 12
    hidden: tuple[int, ...] = (200, 80)

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise UserError(f"model {self.name!r} is unknown; one of {sorted(MODELS)} is expected")


def build_model(data: CTRData, images: ItemImages | None, settings: ModelSettings, form: ImageSettings) -> nn.Module:
    """A model for a dataset, with random weights from torch's global generator.

    Raises
    ------
    UserError
        If a table is given to a model that reads none.
    """
    return MODELS[settings.name](data, images, settings, form)


def _embedding_mlp(
    data: CTRData, images: ItemImages | None, settings: ModelSettings, form: ImageSettings
) -> EmbeddingMLP:
    if images is not None:
        raise UserError("embedding_mlp reads no embedding table; use model dicm, or leave the table out")
    return EmbeddingMLP(data.sizes, settings.embedding, settings.hidden)


def _dicm(data: CTRData, images: ItemImages | None, settings: ModelSettings, form: ImageSettings) -> DICM:
    return DICM(data.sizes, settings.embedding, settings.hidden, images, form, data.settings.history)


MODELS = {"embedding_mlp": _embedding_mlp, "dicm": _dicm}
