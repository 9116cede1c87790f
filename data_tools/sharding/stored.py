"""How shards store a picture: its file as it is, re-encoded smaller, or decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.reading.images import BadImage, read_image


@dataclass(frozen=True)
class Stored:
    """How pictures are stored.

    Attributes
    ----------
    side : int
        Pixels of the shorter side that larger pictures are resized to; 0 leaves all as they are.
    decoded : bool
        Store uint8 arrays (height, width, 3), as ``.npy`` files, in place of encoded pictures.
    quality : int
        JPEG quality of the pictures that are resized.
    nothing : bool
        Store no pictures.
    """

    side: int = 0
    decoded: bool = False
    quality: int = 90
    nothing: bool = False

    def picture(self, data: bytes, path: str) -> tuple[bytes, str]:
        """A picture file's bytes as they are stored, and their extension.

        Raises
        ------
        UserError
            If it must be decoded and cannot be.
        """
        extension = path.rpartition(".")[2]
        if not self.side:
            return data, extension
        try:
            image = read_image(data, 2 * self.side)
        except BadImage as bad:
            raise UserError(f"{path}: {bad}; prepare the dataset again, which leaves out broken pictures") from None
        scale = self.side / min(image.size)
        if scale >= 1 and not self.decoded:
            return data, extension
        if scale < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        file = io.BytesIO()
        if self.decoded:
            np.save(file, np.asarray(image), allow_pickle=False)
            return file.getvalue(), "npy"
        image.save(file, "JPEG", quality=self.quality)
        return file.getvalue(), "jpg"
