"""Image encoder: any timm or open_clip image tower, and one linear layer to the embedding."""

from __future__ import annotations

from pathlib import Path

import open_clip
import safetensors.torch
import timm
import torch
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from data_tools.common.cli import UserError
from pretrain.encoder.depth import freeze
from pretrain.encoder.item_dropout import replace_dropout
from pretrain.settings import Encoder

OPEN_CLIP = "open_clip:"


class ImageEncoder(nn.Module):
    """``tower`` (pictures -> features) and ``head`` (features -> embedding).

    Attributes
    ----------
    dimensions : size D of the embedding
    mean, std : buffers (1, 3, 1, 1), channel statistics of the input in [0, 1]; they travel with the weights
    """

    def __init__(self, tower: nn.Module, features: int, settings: Encoder, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.tower = tower
        self.dimensions = settings.dimensions or features
        self.head = nn.Linear(features, settings.dimensions) if settings.dimensions else nn.Identity()
        self.dropouts = replace_dropout(tower)
        still = freeze(tower, settings.freeze_stages) if settings.freeze_stages else []
        norms = [module for module in tower.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._still = norms if settings.freeze_norm else still
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        """Pictures, uint8 (N, 3, S, S), to the tower's features, (N, F)."""
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return self.tower(pixels.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Pictures, uint8 (N, 3, S, S), to embeddings, (N, D), not normalised.

        ``seeds``, long (N,), decide the pictures' dropout in training (see ``pretrain.encoder.item_dropout``).
        """
        for dropout in self.dropouts:
            dropout.seeds = seeds
        return self.head(self.features(images))

    def train(self, mode: bool = True) -> ImageEncoder:
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self


def build_encoder(settings: Encoder) -> ImageEncoder:
    """Build an encoder with its initial weights.

    Raises
    ------
    UserError
        If the name is unknown (the nearest ones are named), or the weights do not fit the model, or every layer would
        be frozen.
    """
    named = _open_clip_tower if settings.name.startswith(OPEN_CLIP) else _timm_tower
    tower, mean, std = named(settings)
    if settings.weights:
        load_weights(tower, settings.weights, prefix="visual." if named is _open_clip_tower else "")
    if settings.gradient_checkpointing:
        tower.set_grad_checkpointing(True)
    with torch.no_grad():  # some towers pool into another width than they say
        features = tower.eval()(torch.zeros(1, 3, settings.image_size, settings.image_size)).shape[1]
    encoder = ImageEncoder(tower.train(), features, settings, settings.mean or mean, settings.std or std)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise UserError(
            f"--encoder.freeze_stages {settings.freeze_stages} leaves nothing to train of {settings.name} without a "
            "linear layer (--encoder.dimensions 0)"
        )
    if settings.compile:
        tower.compile(dynamic=True)  # the number of distinct pictures differs from batch to batch
    return encoder.to(memory_format=torch.channels_last)


def _timm_tower(settings: Encoder) -> tuple[nn.Module, list[float], list[float]]:
    if not timm.is_model(settings.name):
        nearest = timm.list_models(f"*{settings.name.split('.')[0][:8]}*")[:5]
        raise UserError(
            f"timm has no model {settings.name!r}; near it: {', '.join(nearest) or 'see timm.list_models()'}"
        )
    try:
        tower = timm.create_model(
            settings.name, pretrained=bool(settings.pretrained), num_classes=0, **settings.arguments
        )
    except TypeError as error:
        raise UserError(f"--encoder.arguments do not fit {settings.name}: {error}") from None
    config = timm.data.resolve_model_data_config(tower)
    return tower, list(config["mean"]), list(config["std"])


def _open_clip_tower(settings: Encoder) -> tuple[nn.Module, list[float], list[float]]:
    name = settings.name.removeprefix(OPEN_CLIP)
    if name not in open_clip.list_models():
        raise UserError(f"open_clip has no model {name!r}; it has: {', '.join(open_clip.list_models()[:12])}, ...")
    tag = settings.pretrained if isinstance(settings.pretrained, str) else None
    if settings.pretrained and not tag:
        raise UserError(f"--encoder.pretrained of {settings.name} must be an open_clip tag such as laion2b_s34b_b79k")
    model = open_clip.create_model(name, pretrained=tag, force_image_size=settings.image_size, **settings.arguments)
    tower = model.visual
    return tower, list(tower.image_mean), list(tower.image_std)


def load_weights(module: nn.Module, file: str | Path, prefix: str = "") -> None:
    """Load a state dict of tensors; a classifier the module lacks is passed over, anything else must fit.

    With a ``prefix`` ("visual." or "text."), the file may also hold a whole open_clip model: its part of that name is
    taken.

    Raises
    ------
    UserError
        If the file is missing, holds anything but tensors, or lacks or exceeds the module's parameters.
    """
    try:
        if Path(file).suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no weights at {file}") from None
    except Exception as error:
        raise UserError(f"{file} cannot be read as a file of tensors: {error}") from None
    if prefix and any(name.startswith("visual.") for name in state):
        state = convert_to_custom_text_state_dict(state)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    classifiers = ("classifier.", "head.fc.", "fc.", "head.")
    wanted = module.state_dict()
    state = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(classifiers)}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or extra or wrong:
        raise UserError(
            f"{file} does not fit the model: {len(missing)} parameters missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}, strict=False)
