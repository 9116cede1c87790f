"""Raw features made by an image encoder in the loop, learned with the click."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.transforms import v2

from data_tools.common.errors import UserError
from data_tools.common.storage import read
from data_tools.common.tensors import read_tensors
from data_tools.common.timm_arguments import timm_arguments
from data_tools.reading.images import BadImage, read_image
from downstream.images.features import Features
from downstream.images.joined import ItemImages

# Pictures encoded at a time: more of a batch than this are encoded again in the backward pass, to bound the memory.
CHUNK = 256
# Bytes of decoded pictures that are kept for items shown again.
KEPT_BYTES = 2**31


class Pictures:
    """Decoded pictures of items, squeezed into squares as the export does: uint8 (3, size, size) each.

    Parameters
    ----------
    folder : Path
        Of the dataset, or its URL.
    files : list of str or None
        Picture of each item, by row; None where it has none.
    size : int
        Side of the square in pixels.
    """

    def __init__(self, folder: Path, files: list[str | None], size: int) -> None:
        self.folder, self.files, self.size = folder, files, size
        self.resize = v2.Resize((size, size), antialias=True)
        self.kept: dict[int, Tensor] = {}

    def read(self, row: int) -> Tensor:
        """One picture, from its file.

        Raises
        ------
        UserError
            If the item has no picture that can be read.
        """
        try:
            if self.files[row] is None:
                raise BadImage("missing")
            picture = read_image(read(self.folder / self.files[row]), 2 * self.size)
        except (BadImage, OSError) as fault:
            raise UserError(
                f"the table has a vector of the item in row {row}, but its picture {self.files[row]} cannot be read: "
                f"{fault}; with image.tune 'encoder', table and pictures must be of the same dataset"
            ) from None
        return self.resize(v2.functional.pil_to_tensor(picture))

    def __call__(self, rows: list[int]) -> Tensor:
        """Pictures of distinct rows, (M, 3, size, size), each decoded at most once."""
        missing = [row for row in rows if row not in self.kept]
        with ThreadPoolExecutor() as pool:
            read = dict(zip(missing, pool.map(self.read, missing), strict=True))
        room = KEPT_BYTES // (3 * self.size**2) - len(self.kept)
        self.kept.update(list(read.items())[: max(room, 0)])
        return torch.stack([read[row] if row in read else self.kept[row] for row in rows])


@dataclass(frozen=True)
class Recipe:
    """How a table was made from pictures, according to its ``table.json``.

    Attributes
    ----------
    name : str
        Of the timm model.
    arguments : dict
        Of the timm model.
    embedding : int or None
        Size of the linear layer after it; None where the table has the model's own features.
    image_size : int
        Side of the input in pixels.
    mean, std : list of float
        Of the input's channels.
    normalised : bool
        Whether vectors have length 1.
    weights : Path
        File of the weights.
    """

    name: str
    arguments: dict[str, Any]
    embedding: int | None
    image_size: int
    mean: list[float]
    std: list[float]
    normalised: bool
    weights: Path


WEIGHTS_FILE = {"trained": "best.safetensors", "initial": "initial.safetensors"}
LATEST = "checkpoints/step-*/encoder.safetensors"


def recipe(info: dict[str, Any], weights: str | None) -> Recipe:
    """The recipe in a table's description, with the weights in ``weights`` or where it says that they are.

    Raises
    ------
    UserError
        If the table was not exported by this project from a timm model, or its weights are nowhere.
    """
    if not {"encoder", "preprocessing", "layer", "normalised"} <= info.keys():
        raise UserError("tune 'encoder' needs a table made by pretrain/export.py: its table.json says how to make it")
    encoder = info["encoder"]
    if (family := encoder.get("family", "timm")) != "timm":
        raise UserError(
            f"tune 'encoder' supports timm models only; the table was made by {encoder['name']} of {family}"
        )
    if "timm" not in encoder:
        raise UserError("the table was exported by another version; export it again")
    if not timm.is_model(encoder["name"]):
        raise UserError(
            f"timm has no model {encoder['name']!r}, which made the table; tune 'encoder' supports timm models only: "
            "install the version of timm that made it"
        )
    if not weights and info.get("run"):
        run, file = Path(info["run"]), WEIGHTS_FILE.get(info["weights"], LATEST)
        # A step of seven digits sorts before one of six.
        weights = str(max(run.glob(file), key=lambda path: (len(path.parent.name), path), default=run / file))
    weights = weights or encoder.get("weights")
    if not weights or not Path(weights).exists():
        raise UserError(f"no encoder weights at {weights}; name the .safetensors file in image.weights")
    return Recipe(
        encoder["name"],
        encoder["timm"]["arguments"],
        encoder["dimensions"] or None if info["layer"] == "embedding" else None,
        info["preprocessing"]["image_size"],
        info["preprocessing"]["mean"],
        info["preprocessing"]["std"],
        info["normalised"],
        Path(weights),
    )


class Encoder(nn.Module):
    """timm model and, where the recipe has one, linear layer; pictures uint8 (N, 3, S, S) -> vectors (N, D)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tower = timm.create_model(
            recipe.name, num_classes=0, **timm_arguments(recipe.name, recipe.image_size, recipe.arguments)
        )
        self.normalised = recipe.normalised
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)
        state = self._read(recipe.weights)
        self.head: nn.Module = nn.Identity()
        if recipe.embedding:
            head = {name: state.pop(f"head.{name}") for name in ("weight", "bias") if f"head.{name}" in state}
            if len(head) < 2 or len(head["weight"]) != recipe.embedding:
                raise UserError(
                    f"{recipe.weights} holds no linear layer to {recipe.embedding} numbers, the table's size"
                )
            self.head = nn.Linear(head["weight"].shape[1], recipe.embedding)
            self.head.load_state_dict(head)
        wanted = self.tower.state_dict()
        missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
        wrong = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
        if missing or wrong:
            raise UserError(
                f"{recipe.weights} does not fit {recipe.name}: {len(missing)} parameters missing {missing[:3]}, "
                f"{len(wrong)} of another shape {wrong[:3]}"
            )
        self.tower.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)

    @staticmethod
    def _read(file: Path) -> dict[str, Tensor]:
        """Weights of the tower by their own names, and those of the linear layer after it as "head.*"."""
        try:
            if file.suffix == ".safetensors":
                state = read_tensors(file, "copy it again")
            else:
                state = torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:  # broken files raise nearly anything
            raise UserError(f"{file} cannot be read as a file of tensors: {error}") from None
        if not any(name.startswith("tower.") for name in state):
            return state
        tower = {name.removeprefix("tower."): value for name, value in state.items() if name.startswith("tower.")}
        return {**tower, **{name: state[name] for name in ("head.weight", "head.bias") if name in state}}

    def forward(self, pictures: Tensor) -> Tensor:
        vectors = self.head(self.tower((pictures.to(self.mean.dtype) / 255 - self.mean) / self.std)).float()
        return F.normalize(vectors, dim=-1) if self.normalised else vectors


class EncodedPictures(Features):
    """Vectors that an encoder makes of the items' pictures, starting as those of the table that it once made.

    The distinct items of a batch are encoded once each, and the gradient of the click reaches the encoder. Its
    normalisation layers keep their statistics, and there is no dropout. Where nothing is learned, each item is encoded
    at most once between two changes of the weights.

    Raises
    ------
    UserError
        If encoder or pictures are not those of the table: its vectors have to come out again.
    """

    def __init__(self, images: ItemImages, weights: str | None) -> None:
        super().__init__(images)
        said = recipe(images.info, weights)
        # Its random weights are replaced: drawing them must not decide how the rest of the model starts.
        with torch.random.fork_rng(devices=[]):
            self.encoder = Encoder(said).eval()
        self.pictures = Pictures(images.folder, images.pictures, said.image_size)
        self.encoded: dict[int, Tensor] = {}
        self.register_load_state_dict_post_hook(lambda *_: self.encoded.clear())
        self._check(images)

    def train(self, mode: bool = True) -> EncodedPictures:
        super().train(mode)
        self.encoder.eval()
        self.encoded.clear()
        return self

    @torch.no_grad()
    def _check(self, images: ItemImages, count: int = 16) -> None:
        rows = np.flatnonzero(images.found & images.warm)[:count]
        made = self.encoder(self.pictures(rows.tolist())).numpy()
        wanted, centre = images.vectors[rows], images.fitted.mean(axis=0)
        if made.shape != wanted.shape:
            raise UserError(f"the encoder makes vectors of size {made.shape[1]}, the table's have {wanted.shape[1]}")
        off = np.square(made - wanted).sum() / max(np.square(wanted - centre).sum(), 1e-12)
        if off > 0.1:
            raise UserError(
                f"the encoder does not make the table's vectors from the dataset's pictures (error {off:.0%} of their "
                "variance): weights, pictures or table belong to another run or dataset"
            )

    def forward(self, row: Tensor) -> Tensor:
        pictured = self.found[row]
        rows = row[pictured].tolist()
        if self.training:
            made = [
                self._encode(rows[start : start + CHUNK], len(rows) > CHUNK) for start in range(0, len(rows), CHUNK)
            ]
        else:
            made = [self._recalled(rows)]
        vectors = row.new_zeros(len(row), self.size, dtype=torch.float32)
        return vectors.index_put((pictured.nonzero().squeeze(1),), torch.cat(made)) if rows else vectors

    def _encode(self, rows: list[int], sparing: bool) -> Tensor:
        pictures = self.pictures(rows).to(self.found.device)
        return checkpoint(self.encoder, pictures, use_reentrant=False) if sparing else self.encoder(pictures)

    def _recalled(self, rows: list[int]) -> Tensor:
        """Vectors of rows, encoded only where they have not been since the weights changed."""
        missing = [row for row in rows if row not in self.encoded]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            self.encoded.update(zip(part, self._encode(part, False).detach(), strict=True))
        return torch.stack([self.encoded[row] for row in rows]) if rows else torch.zeros(0, self.size)
