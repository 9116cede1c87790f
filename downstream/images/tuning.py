"""What of the raw features is learned with the click: nothing, the table's vectors, or the encoder that made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from downstream.images.encoder import EncodedPictures
from downstream.images.features import Features, FrozenTable, TunedTable

if TYPE_CHECKING:
    from downstream.forms import ImageSettings
    from downstream.images.joined import ItemImages

TUNES: dict[str, Callable[[ItemImages, ImageSettings], Features]] = {
    "frozen": lambda images, settings: FrozenTable(images),
    "table": lambda images, settings: TunedTable(images),
    "encoder": lambda images, settings: EncodedPictures(images, settings.weights),
}
