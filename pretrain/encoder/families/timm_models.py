"""Image towers of timm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import timm
from torch import nn

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from pretrain.encoder.families.base import EncoderFamily, Tower


class Timm(EncoderFamily):
    """Any model of timm without its classifier."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the family timm.

        Attributes
        ----------
        pretrained : bool
            Start from timm's own weights, from a hub.
        arguments : dict of str to any
            Further arguments of the model's constructor.
        """

        pretrained: bool = False
        arguments: dict[str, Any] = field(default_factory=dict)

    def build(self, name: str, image_size: int) -> Tower:
        if not timm.is_model(name):
            nearest = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
            raise UserError(f"timm has no model {name!r}; near it: {', '.join(nearest) or 'see timm.list_models()'}")
        try:
            tower = timm.create_model(name, pretrained=self.options.pretrained, num_classes=0, **self.options.arguments)
        except TypeError as error:
            raise UserError(f"--encoder.timm.arguments do not fit {name}: {error}") from None
        config = timm.data.resolve_model_data_config(tower)
        return Tower(tower, list(config["mean"]), list(config["std"]))

    @property
    def hub_weights(self) -> str | None:
        return "--encoder.timm.pretrained" if self.options.pretrained else None

    @property
    def arguments(self) -> dict[str, Any]:
        return self.options.arguments

    def without_hub(self) -> EncoderFamily:
        return Timm(replace(self.options, pretrained=False))

    def with_classifier(self, name: str, classes: int) -> nn.Module | None:
        return timm.create_model(name, num_classes=classes, **self.options.arguments)
