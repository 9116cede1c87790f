"""Several forms of one table side by side, as one form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from downstream.forms.base import Form, Train
from downstream.images.joined import ItemImages

if TYPE_CHECKING:
    from downstream.data.ctr_data import CTRData
    from downstream.forms import ImageSettings


class SideBySide(Form):
    """The features of several forms, one after the other; see :func:`side_by_side`."""

    parts: ClassVar[tuple[type[Form], ...]]

    def __init__(self, images: ItemImages, settings: ImageSettings, slots: int, query_size: int) -> None:
        super().__init__()
        self.forms = nn.ModuleList(part(images, settings, slots, query_size) for part in self.parts)
        self.width = sum(form.width for form in self.forms)

    def forward(self, batch: dict[str, Tensor], ad_ids: Tensor) -> Tensor:
        return torch.cat([form(batch, ad_ids) for form in self.forms], dim=-1)

    def fit(self, train: Train) -> None:
        for form in self.forms:
            form.fit(train)

    def report(self, data: CTRData) -> dict:
        return {name: said for form in self.forms for name, said in form.report(data).items()}


def side_by_side(*forms: type[Form]) -> type[SideBySide]:
    """A form that gives the model the features of all of ``forms``, and can do to the table what all of them can."""
    return type(
        "And".join(form.__name__ for form in forms),
        (SideBySide,),
        {
            "parts": forms,
            "tunable": all(form.tunable for form in forms),
            "switches": all(form.switches for form in forms),
            "centres": all(form.centres for form in forms),
        },
    )
