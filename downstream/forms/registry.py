"""The forms by name."""

from __future__ import annotations

from data_tools.common.plugins import Registry, options_of
from downstream.ams.joining import ServedImages
from downstream.forms.base import Form
from downstream.forms.cluster_id import ClusterID
from downstream.forms.make import Make
from downstream.forms.side_by_side import side_by_side
from downstream.forms.simscore import SimScore
from downstream.forms.simtier import SimTier
from downstream.forms.vector import Vector
from downstream.images.joined import ItemImages
from downstream.settings import ImageSettings

FORMS: Registry[type[Form]] = Registry(
    "form",
    "visual_interest.forms",
    {
        "vector": Vector,
        "simscore": SimScore,
        "simtier": SimTier,
        "cluster_id": ClusterID,
        "make": Make,
        "simtier_make": side_by_side(simtier=SimTier, make=Make),  # as in arXiv 2407.19467
    },
)


def make_form(images: ItemImages | ServedImages, settings: ImageSettings, *, slots: int, query_size: int) -> Form:
    """The form that the settings name, with its options (see :class:`downstream.forms.base.Form`)."""
    options = options_of(settings, settings.form)
    return FORMS[settings.form](images, settings, options, slots=slots, query_size=query_size)
