"""What a family of image encoders supplies: a tower, its input's statistics, and the order of its layers."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data_tools.common.errors import UserError
from data_tools.tables.seen import NOTHING, Seen
from pretrain.encoder.depth import layer_groups

HUB = re.compile(r"^(hf[-_]hub:|https?://huggingface\.co/)")  # before the name of a model at the hub


class Tower(NamedTuple):
    """An image tower and how its input is normalised.

    Attributes
    ----------
    module : nn.Module
        Normalised pictures, float (N, 3, S, S), to features (N, F). It may offer ``set_grad_checkpointing(True)``.
        Export on a CPU calls it, in evaluation mode, from several threads at once.
    mean, std : list of float
        Channel statistics of the input in [0, 1], three each.
    """

    module: nn.Module
    mean: list[float]
    std: list[float]


class EncoderFamily:
    """Base of encoder families. A family with options names them in a dataclass ``Settings``.

    Parameters
    ----------
    options : Settings
        The family's own options; None for a family without.

    Attributes
    ----------
    takes : str
        What the tower is given: "pictures", uint8 (N, 3, S, S), or "items", long (N,).
    part : str
        Prefix of the image tower's parameters in a file that holds a whole model; empty where there is none.
    loader : str
        What takes the image tower's exported weights outside this project; empty where nothing does.
    """

    takes = "pictures"
    part = ""
    loader = ""

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def known_as(cls, name: str) -> str:
        """The family's own name of a model, for a name as people paste it from a hub."""
        return name

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether the family has a model of that name; True where it cannot say before it builds one."""
        return True

    def build(self, name: str, image_size: int) -> Tower:
        """The model ``name`` for pictures of ``image_size`` pixels a side.

        Raises
        ------
        UserError
            If there is no such model, or the options do not fit it.
        """
        raise NotImplementedError

    def attach(self, tower: nn.Module, name: str, data: str) -> None:
        """Tell a tower that takes items which items those of the shards ``data`` are; nothing for pictures.

        Raises
        ------
        UserError
            If the tower knows too few of them.
        """

    def example(self, image_size: int, count: int) -> Tensor:
        """An input of ``count`` pictures or items, for trials."""
        return torch.zeros(count, 3, image_size, image_size, dtype=torch.uint8)

    def prepared(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """What the tower is called with: pictures, uint8 (N, 3, S, S), normalised."""
        count, channels, height, width = images.shape
        # Whole rows, with statistics as long as they are: a fifth of the time of three numbers a pixel, channels last.
        rows = images.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        mean, std = (statistic.flatten().repeat(width) for statistic in (mean, std))
        pixels = rows.to(mean.dtype).div_(255).sub_(mean).div_(std)
        return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)

    def stages(self, tower: nn.Module, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every stage's maps, (N, C, H, W) each, in forward order, and the features, (N, F), of normalised pictures.

        Raises
        ------
        UserError
            If the tower shows no stages.
        """
        raise UserError("--layer stages needs a model of timm that shows its stages; choose --layer features")

    def preprocessing(self, image_size: int, mean: list[float], std: list[float]) -> dict[str, Any]:
        """How an item becomes the tower's input, for ``table.json``."""
        resize = "whole picture to a square, bilinear with antialiasing"
        return {"image_size": image_size, "mean": mean, "std": std, "resize": resize}

    @property
    def hub_weights(self) -> str | None:
        """The flag and value that asks for weights from a hub, for messages; None where none are asked for."""
        return None

    def remark(self, name: str) -> str | None:
        """What whoever starts from this name without weights should know."""
        return None

    def sizes(self, tower: nn.Module, name: str, image_size: int) -> list[int]:
        """Sizes of pictures that may be tried in place of one that the model does not work at, the nearest first."""
        return []

    def fitted(self, state: dict[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
        """Weights from a file, as the tower needs them: position embeddings resampled to the tower's picture size."""
        return state

    def arguments(self, name: str, image_size: int) -> dict[str, Any]:
        """Arguments of the model's constructor, for those who build the exported encoder elsewhere."""
        return {}

    def seen(self, name: str) -> Seen:
        """Until when the log reaches that the model ``name`` has seen before any training here; None if not known."""
        return None if self.hub_weights or name.startswith("hf-hub:") else NOTHING

    def without_hub(self) -> EncoderFamily:
        """The family with options that ask for no weights from a hub: a run's own weights replace them."""
        return self

    def layer_groups(self, tower: nn.Module, stages: bool) -> dict[str, int]:
        """Group of each parameter by name, 0 for the stem, in forward order; coarse with ``stages``."""
        return layer_groups(tower, stages)

    def with_classifier(self, name: str, classes: int, image_size: int) -> nn.Module | None:
        """The family's own model whose classifier is one linear layer to ``classes``; None where it has none."""
        return None
