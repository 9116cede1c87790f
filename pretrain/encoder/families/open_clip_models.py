"""Image towers of open_clip."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import open_clip

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from pretrain.encoder.families.base import EncoderFamily, Tower


class OpenClip(EncoderFamily):
    """The image tower of any model of open_clip."""

    part = "visual."

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the family open_clip.

        Attributes
        ----------
        tag : str or None
            Start from the weights of this tag, from a hub, such as laion2b_s34b_b79k.
        arguments : dict of str to any
            Further arguments of ``open_clip.create_model``.
        """

        tag: str | None = None
        arguments: dict[str, Any] = field(default_factory=dict)

    def build(self, name: str, image_size: int) -> Tower:
        if name not in open_clip.list_models():
            raise UserError(f"open_clip has no model {name!r}; it has: {', '.join(open_clip.list_models()[:12])}, ...")
        options = self.options
        try:
            model = open_clip.create_model(
                name, pretrained=options.tag, force_image_size=image_size, **options.arguments
            )
        except TypeError as error:
            raise UserError(f"--encoder.open_clip.arguments do not fit {name}: {error}") from None
        tower = model.visual
        return Tower(tower, list(tower.image_mean), list(tower.image_std))

    @property
    def hub_weights(self) -> str | None:
        return f"--encoder.open_clip.tag {self.options.tag}" if self.options.tag else None

    @property
    def arguments(self) -> dict[str, Any]:
        return self.options.arguments

    def without_hub(self) -> EncoderFamily:
        return OpenClip(replace(self.options, tag=None))
