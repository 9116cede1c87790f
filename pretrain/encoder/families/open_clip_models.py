"""Image towers of open_clip."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
from open_clip.model import resize_pos_embed
from torch import Tensor, nn

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from pretrain.encoder.families.base import HUB, EncoderFamily, Tower
from pretrain.encoder.sizes import first_line, near_sizes


class OpenClip(EncoderFamily):
    """The image tower of any model of open_clip."""

    part = "visual."
    loader = "open_clip.create_model(name, **arguments).visual.load_state_dict"

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

    @classmethod
    def known_as(cls, name: str) -> str:
        """``ViT-B/32`` is ViT-B-32; an address at the hub is hf-hub:owner/model."""
        rest = HUB.sub("", name)
        return f"hf-hub:{rest.rstrip('/')}" if rest != name else name.replace("/", "-")

    @classmethod
    def knows(cls, name: str) -> bool:
        return name in open_clip.list_models() or name.startswith("hf-hub:")

    def build(self, name: str, image_size: int) -> Tower:
        if not self.knows(name):
            near = difflib.get_close_matches(name, open_clip.list_models(), 5, 0.3) or open_clip.list_models()[:12]
            raise UserError(f"open_clip has no model {name!r}; the nearest are {', '.join(near)}")
        self._check_tag(name)
        options = self.options
        try:
            model = open_clip.create_model(name, pretrained=options.tag, **self.arguments(name, image_size))
        except TypeError as error:
            raise UserError(f"--encoder.open_clip.arguments do not fit {name}: {error}") from None
        except Exception as error:  # of the hub's client, or of any model's constructor
            hub = options.tag or name.startswith("hf-hub:")
            way = "Without the hub, download its weights elsewhere and name the file with --encoder.weights"
            raise UserError(f"{name} cannot be built: {first_line(error)}" + (f". {way}" if hub else "")) from None
        tower = model.visual
        if hasattr(tower, "output_tokens"):
            tower.output_tokens = False  # CoCa's gives its tokens, too, which nothing here takes
        return Tower(tower, list(tower.image_mean), list(tower.image_std))

    def _check_tag(self, name: str) -> None:
        tag, known = self.options.tag, open_clip.list_pretrained_tags_by_model(name)
        if tag and not name.startswith("hf-hub:") and tag not in known and not Path(tag).exists():
            choices = f"choose one of {', '.join(known)}" if known else "it has none"
            raise UserError(f"open_clip has no weights {tag!r} of {name}; {choices} (--encoder.open_clip.tag)")

    @property
    def hub_weights(self) -> str | None:
        return f"--encoder.open_clip.tag {self.options.tag}" if self.options.tag else None

    def arguments(self, name: str, image_size: int) -> dict[str, Any]:
        return {"force_image_size": image_size, **self.options.arguments}

    def sizes(self, tower: nn.Module, name: str, image_size: int) -> list[int]:
        vision = (open_clip.get_model_config(name) or {}).get("vision_cfg", {})
        return near_sizes(image_size, vision.get("patch_size") or 32, vision.get("image_size") or 224)

    def fitted(self, state: dict[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
        """Position embeddings resampled as open_clip does."""
        whole = {f"visual.{name}": tensor for name, tensor in state.items()}
        resize_pos_embed(whole, SimpleNamespace(visual=tower))
        return {name.removeprefix("visual."): tensor for name, tensor in whole.items()}

    def without_hub(self) -> EncoderFamily:
        return OpenClip(replace(self.options, tag=None))
