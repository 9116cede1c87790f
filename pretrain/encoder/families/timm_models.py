"""Image towers of timm."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import timm
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.common.timm_arguments import timm_arguments
from pretrain.encoder.families.base import HUB, EncoderFamily, Tower
from pretrain.encoder.sizes import first_line, near_sizes


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

    @classmethod
    def known_as(cls, name: str) -> str:
        """``timm/resnet18.a1_in1k``, with or without the hub's prefix or address, is resnet18.a1_in1k."""
        rest = HUB.sub("", name)
        owner, slash, model = rest.rstrip("/").partition("/")
        if slash and owner == "timm":
            return model
        return f"hf-hub:{rest}" if rest != name else name

    @classmethod
    def knows(cls, name: str) -> bool:
        return timm.is_model(name) or name.startswith("hf-hub:")

    def build(self, name: str, image_size: int) -> Tower:
        if not self.knows(name):
            nearest = ", ".join(difflib.get_close_matches(name.split(".")[0], timm.list_models(), 5))
            advice = f"the nearest are {nearest}" if nearest else "see timm.list_models()"
            raise UserError(f"timm has no model {name!r}; {advice}")
        self._check_tag(name)
        try:
            tower = timm.create_model(
                name, pretrained=self.options.pretrained, num_classes=0, **self.arguments(name, image_size)
            )
        except TypeError as error:
            raise UserError(f"--encoder.timm.arguments do not fit {name}: {error}") from None
        except Exception as error:  # of the hub's client, or of any model's constructor
            raise UserError(self._not_built(name, error)) from None
        config = timm.data.resolve_model_data_config(tower)
        return Tower(tower, list(config["mean"]), list(config["std"]))

    def _check_tag(self, name: str) -> None:
        """Refuse a tag of weights that timm does not know."""
        model, dot, tag = name.partition(".")
        if not dot or name.startswith("hf-hub:"):
            return
        known = timm.list_pretrained(f"{model}.*")
        if name not in known:
            choices = ", ".join(known) or f"{model} alone, which has none"
            raise UserError(f"timm has no weights {tag!r} of {model}; choose one of {choices}")

    def remark(self, name: str) -> str | None:
        model, dot, tag = name.partition(".")
        if not dot or self.options.pretrained or name.startswith("hf-hub:"):
            return None
        return f"{model} starts with random weights; --encoder.timm.pretrained true loads those called {tag}"

    def _not_built(self, name: str, error: Exception) -> str:
        said = f"{name} cannot be built: {first_line(error)}"
        if self.options.pretrained or name.startswith("hf-hub:"):
            return f"{said}. Without the hub, download its weights elsewhere and name the file with --encoder.weights"
        if self.options.arguments:
            return f"{said}. Check --encoder.timm.arguments {self.options.arguments}"
        return said

    @property
    def hub_weights(self) -> str | None:
        return "--encoder.timm.pretrained" if self.options.pretrained else None

    def arguments(self, name: str, image_size: int) -> dict[str, Any]:
        return timm_arguments(name, image_size, self.options.arguments)

    def sizes(self, tower: nn.Module, name: str, image_size: int) -> list[int]:
        own = get_pretrained_cfg(name).input_size[-1] if timm.is_model(name) else 224
        patch = getattr(getattr(tower, "patch_embed", None), "patch_size", 32)
        return near_sizes(image_size, patch if isinstance(patch, int) else patch[0], own)

    def fitted(self, state: dict[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
        """As timm fits its own weights: names of the model's first publication, and position embeddings resampled."""
        fit = getattr(sys.modules[type(tower).__module__], "checkpoint_filter_fn", None)
        try:
            return fit(dict(state), tower) if fit else state
        except Exception:  # it knows the forms of its own downloads alone; what does not fit is named later
            return state

    def stages(self, tower: nn.Module, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        if not hasattr(tower, "forward_intermediates"):
            return super().stages(tower, pixels)
        last, maps = tower.forward_intermediates(pixels)
        return maps, tower.forward_head(last)

    def without_hub(self) -> EncoderFamily:
        return Timm(replace(self.options, pretrained=False))

    def with_classifier(self, name: str, classes: int, image_size: int) -> nn.Module | None:
        return timm.create_model(name, num_classes=classes, **self.arguments(name, image_size))
