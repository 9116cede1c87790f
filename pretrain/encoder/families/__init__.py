"""Where image towers come from: a new family is one file with one class, and one line here.

A family builds a tower by the model's name (see :class:`pretrain.encoder.families.base.EncoderFamily`). Its options are
its class's ``Settings``, which become the section ``encoder.<family>`` of the settings.
"""

from __future__ import annotations

from data_tools.common.plugins import Registry
from pretrain.encoder.families.base import EncoderFamily
from pretrain.encoder.families.open_clip_models import OpenClip
from pretrain.encoder.families.tables import Table
from pretrain.encoder.families.timm_models import Timm

ENCODERS: Registry[type[EncoderFamily]] = Registry(
    "encoder family", "visual_interest.encoder_families", {"timm": Timm, "open_clip": OpenClip, "table": Table}
)


def split_name(family: str, name: str) -> tuple[str, str]:
    """Family and model of a name that may begin with its family, as in ``open_clip:RN50``, or be one of a hub.

    A name that its family lacks and open_clip has, such as ViT-B/32, is open_clip's.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ENCODERS:
        family, name = prefix, rest
    name = ENCODERS[family].known_as(name)
    if family == "timm" and not Timm.knows(name) and OpenClip.knows(other := OpenClip.known_as(name)):
        return "open_clip", other
    return family, name
