"""Image encoder: the image tower of a family, and one linear layer to the embedding."""

from __future__ import annotations

import json
import warnings

import torch
from torch import Tensor, nn

from data_tools.common.errors import UserError
from data_tools.common.plugins import options_of
from pretrain.encoder.depth import freeze
from pretrain.encoder.families import ENCODERS
from pretrain.encoder.families.base import EncoderFamily, Tower
from pretrain.encoder.item_dropout import replace_dropout
from pretrain.encoder.sizes import first_line, refuse_shape, trial, working_size
from pretrain.encoder.weights import load_weights
from pretrain.settings import Encoder


class ImageEncoder(nn.Module):
    """``tower`` (pictures -> features) and ``head`` (features -> embedding).

    Parameters
    ----------
    tower : Tower
        With the statistics that its input is normalised with.
    features : int
        Size of the tower's output.
    family : EncoderFamily
        What the tower is of.
    settings : Encoder

    Attributes
    ----------
    dimensions : int
        Size D of the embedding.
    takes_batch_statistics : bool
        Whether a batch norm of the tower normalises by the pictures of a step in training.
    mean, std : float buffers (1, 3, 1, 1)
        Channel statistics of the input in [0, 1]; they are saved with the weights.
    """

    def __init__(self, tower: Tower, features: int, family: EncoderFamily, settings: Encoder) -> None:
        super().__init__()
        self.tower, self.family = tower.module, family
        self.dimensions = settings.dimensions or features
        self.head = nn.Linear(features, settings.dimensions) if settings.dimensions else nn.Identity()
        self.dropouts = replace_dropout(self.tower)
        frozen = freeze(self.tower, self.layer_groups(True), settings.freeze_stages) if settings.freeze_stages else []
        norms = [module for module in self.tower.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._frozen_norms = norms if settings.freeze_norm else frozen
        self.takes_batch_statistics = bool(set(norms) - set(self._frozen_norms))
        self.register_buffer("mean", torch.tensor(tower.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(tower.std).view(1, 3, 1, 1))

    def layer_groups(self, stages: bool) -> dict[str, int]:
        """Group of each of the tower's parameters by name, 0 for the stem, in forward order; coarse with ``stages``."""
        return self.family.layer_groups(self.tower, stages)

    def features(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (N, 3, S, S), or items, long (N,), as the family takes, to the tower's features, (N, F)."""
        return self.tower(self.family.prepared(images, self.mean, self.std))

    def stages(self, images: Tensor) -> Tensor:
        """Each stage's channel means and standard deviations over places, then the features: (N, F').

        Early stages see colour and texture, which the last one gives up for what an object is. Mean and standard
        deviation of a map are the statistics of style of arXiv 1703.06868 (sec. 5); their use as an item's vector is
        ours.
        """
        maps, features = self.family.stages(self.tower, self.family.prepared(images, self.mean, self.std))
        seen = [each(found.flatten(2), -1) for found in maps for each in (torch.mean, _deviation)]
        return torch.cat([*seen, features], dim=1)

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Pictures, uint8 (N, 3, S, S), to embeddings, (N, D), not normalised.

        ``seeds``, long (N,), decide the pictures' dropout in training (see ``pretrain.encoder.item_dropout``).
        """
        for dropout in self.dropouts:
            dropout.seeds = seeds
        return self.head(self.features(images))

    def train(self, mode: bool = True) -> ImageEncoder:
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self


def _deviation(values: Tensor, dim: int) -> Tensor:
    return values.std(dim, correction=0)


def family_of(settings: Encoder) -> EncoderFamily:
    """The family that the settings name, with its options."""
    return ENCODERS[settings.family](options_of(settings, settings.family))


def build_encoder(settings: Encoder, data: str | None = None, *, initial_weights: bool = True) -> ImageEncoder:
    """Build an encoder.

    Parameters
    ----------
    settings : Encoder
    data : str, optional
        Shards whose items it is given, for a family that takes items.
    initial_weights : bool
        Whether the weights that the settings name are loaded; False for an encoder whose weights are replaced.

    Raises
    ------
    UserError
        If the name is unknown (the nearest ones are named), or the weights do not fit the model, or every layer would
        be frozen.
    """
    family = family_of(settings)
    if not initial_weights:
        family = family.without_hub()
    tower, mean, std = family.build(settings.name, settings.image_size)
    if settings.weights and initial_weights:
        load_weights(tower, settings.weights, prefix=family.part, fit=family.fitted)
    elif initial_weights and (remark := family.remark(settings.name)):
        warnings.warn(remark, stacklevel=2)
    if settings.gradient_checkpointing:
        _save_memory(tower, settings.name)
    features = _feature_size(tower, family, settings)
    if data:
        family.attach(tower, settings.name, data)
    tower = Tower(tower.train(), settings.mean or mean, settings.std or std)
    encoder = ImageEncoder(tower, features, family, settings)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise UserError(
            f"--encoder.freeze_stages {settings.freeze_stages} leaves nothing to train of {settings.name} without a "
            "linear layer (--encoder.dimensions 0)"
        )
    if settings.compile:
        encoder.tower.compile(dynamic=True)  # the number of distinct pictures differs from batch to batch
    volumes = any(parameter.ndim == 5 for parameter in encoder.parameters())  # which have no such format
    return encoder if volumes else encoder.to(memory_format=torch.channels_last)


def _save_memory(tower: nn.Module, name: str) -> None:
    try:
        tower.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise UserError(f"{name} has no gradient checkpointing; leave out --encoder.gradient_checkpointing") from None


def _feature_size(tower: nn.Module, family: EncoderFamily, settings: Encoder) -> int:
    """Size F of what the tower gives; some pool into another width than they say.

    Raises
    ------
    UserError
        If the tower does not work at the size of the pictures, or gives anything but one vector a picture.
    """
    name, size = settings.name, settings.image_size
    given = options_of(settings, settings.family)
    arguments = getattr(given, "arguments", None)
    hint = f"; check --encoder.{settings.family}.arguments {json.dumps(arguments)}" if arguments else ""
    try:
        found = trial(tower, family.example(size, 1))
    except Exception as error:  # a model that does not fit raises nearly anything
        works = working_size(
            family.sizes(tower, name, size),
            lambda other: family.without_hub().build(name, other).module,
            lambda other: family.example(other, 1),
        )
        way = f"; --encoder.image_size {works} works" if works else hint
        raise UserError(f"{name} does not take pictures of {size} x {size} pixels: {first_line(error)}{way}") from None
    refuse_shape(found, name, hint)
    patch = getattr(getattr(tower, "patch_embed", None), "patch_size", None) or 1
    if lost := size % (patch if isinstance(patch, int) else patch[0]):
        warnings.warn(
            f"{name} has patches of {patch} pixels: the last {lost} of {size} pixels on two sides are cut off; "
            f"--encoder.image_size {size - lost} uses all of them",
            stacklevel=3,
        )
    return found.shape[1]
