"""Plug-ins of pre-training: an objective and an encoder family."""

import os
from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor, nn

from data_tools.common.checks import Checked
from pretrain.encoder.families.base import EncoderFamily, Tower
from pretrain.objectives.base import Context, Objective
from pretrain.objectives.parts.losses import Term


def note(text: str) -> None:
    """Leave a line for the test."""
    with Path(f"{os.environ['SEEN']}-{os.environ['COMMAND']}").open("a") as file:
        file.write(f"{text}\n")


class Radius(Objective):
    """Embeddings of one length."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of radius.

        Attributes
        ----------
        length : float
            Of each embedding.
        """

        length: PositiveFloat = 1.0

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        note(f"Radius length {options.length}")

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        loss = (embeddings.norm(dim=1) - self.options.length).square().mean()
        return {"radius_loss": Term(loss, loss.detach())}


class Patches(EncoderFamily):
    """Mean colours of a grid of patches, through one linear layer."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of patches.

        Attributes
        ----------
        cells : int
            Patches a side.
        """

        cells: PositiveInt = 2

    def build(self, name: str, image_size: int) -> Tower:
        note(f"Patches cells {self.options.cells}")
        size = 3 * self.options.cells**2
        tower = nn.Sequential(nn.AdaptiveAvgPool2d(self.options.cells), nn.Flatten(), nn.Linear(size, size))
        return Tower(tower, [0.5] * 3, [0.25] * 3)
