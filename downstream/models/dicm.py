"""DICM: Embedding & MLP that also sees the item's image and the images the user clicked."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.features import FORMS, ImageSettings, ItemImages
from downstream.models.embedding_mlp import EmbeddingMLP


class DICM(EmbeddingMLP):
    """Deep Image CTR Model (arXiv 1711.06505): IDs and image features through one MLP, learned together.

    With the form "vector" this is the paper's network (see :class:`downstream.features.Vector`); other forms take its
    place. Without images it is :class:`EmbeddingMLP`, weight for weight.

    Parameters
    ----------
    sizes, embedding, hidden : as in :class:`EmbeddingMLP`
    images : the table joined to the items, or None
    form : how it enters the model
    slots : number of history slots H of a batch
    """

    def __init__(
        self,
        sizes: dict[str, int],
        embedding: int,
        hidden: Sequence[int],
        images: ItemImages | None,
        form: ImageSettings,
        slots: int,
    ) -> None:
        make = FORMS[form.form]
        super().__init__(
            sizes, embedding, hidden, (lambda query_size: make(images, form, slots, query_size)) if images else None
        )
