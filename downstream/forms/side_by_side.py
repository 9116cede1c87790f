"""Several forms of one table side by side, as one form."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data_tools.common.plugins import options_of
from downstream.data.ctr_data import CTRData
from downstream.forms.base import TUNING, Form, Train
from downstream.images.joined import ItemImages
from downstream.settings import ImageSettings


class SideBySide(Form):
    """The features of several forms, one after the other; see :func:`side_by_side`."""

    parts: ClassVar[dict[str, type[Form]]]

    def __init__(
        self, images: ItemImages, settings: ImageSettings, options: Any, *, slots: int, query_size: int
    ) -> None:
        super().__init__()
        self.forms = nn.ModuleList(
            part(images, settings, options_of(settings, name), slots=slots, query_size=query_size)
            for name, part in self.parts.items()
        )
        self.width = sum(form.width for form in self.forms)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        return torch.cat([form(batch, ad_ids) for form in self.forms], dim=-1)

    def fit(self, train: Train) -> None:
        for form in self.forms:
            form.fit(train)

    def report(self, data: CTRData) -> dict:
        return {name: said for form in self.forms for name, said in form.report(data).items()}


def side_by_side(**parts: type[Form]) -> type[SideBySide]:
    """A form that gives the model the features of several forms, with the options of each.

    Parameters
    ----------
    **parts : class
        The forms, by the names they are registered under.
    """
    # What is learned of the table must be learned through all of them.
    tuned = all(part.uses >= TUNING for part in parts.values())
    uses = frozenset().union(*(part.uses for part in parts.values()))
    body = {
        "__doc__": f"The features of {' and '.join(parts)} side by side.",
        "parts": parts,
        "made_of": tuple(parts),
        "uses": uses if tuned else uses - TUNING,
    }
    return type("And".join(part.__name__ for part in parts.values()), (SideBySide,), body)
