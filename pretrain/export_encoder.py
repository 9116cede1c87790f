"""Export the encoder itself: weights that timm loads, and ONNX, both checked against torch.

python -m pretrain.export_encoder --run runs/my-run --out runs/my-run/encoder
python -m pretrain.export_encoder --run runs/my-run --wise_ft validation --data SHARDS --out FOLDER

``model.safetensors``  the weights, for ``timm.create_model(name, num_classes=D, checkpoint_path=FILE, **arguments)``,
                       whose classifier is the embedding's linear layer; it takes normalised pixels
``encoder.onnx``       pictures, uint8 (N, 3, S, S) called ``images``, to ``embeddings``, float32 (N, D): it normalises
                       the pixels itself, and N is free
``encoder.json``       name, arguments, size, preprocessing, checkpoint, and how far each file's result was from torch's
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from torch import Tensor, nn

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import whole_folder, write_json
from pretrain import export
from pretrain.encoder.image_encoder import OPEN_CLIP, ImageEncoder
from pretrain.settings import Encoder
from pretrain.training.runs import save_tensors

# Largest difference from torch's embedding, relative to its largest entry (ours).
TOLERANCE = 1e-3


@dataclass
class Settings:
    """Export a trained encoder for use elsewhere.

    Attributes:
        run: Pre-training run.
        out: Folder to write.
        weights: Of the run: trained (best on validation) or initial (before training).
        wise_ft: Weights between the initial (0) and the trained (1) ones, or "validation"; see pretrain/export.py.
        data: Shards that wise_ft "validation" is judged on.
        onnx: Whether to write ONNX, too; it needs the extra "onnx".
    """

    run: str
    out: str
    weights: str = "trained"
    wise_ft: float | str | None = None
    data: str | None = None
    onnx: bool = True

    def __post_init__(self) -> None:
        if self.wise_ft == "validation" and not self.data:
            raise UserError("--wise_ft validation needs --data, the shards whose validation split it is judged on")
        if self.onnx and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
            raise UserError(
                "ONNX needs onnx, onnxscript and onnxruntime: pip install 'visual-interest[onnx]', or --onnx false"
            )


def timm_model(encoder: ImageEncoder, named: Encoder) -> nn.Module | None:
    """The same network as timm's own model whose classifier is the linear layer; None where there is no such model."""
    if named.name.startswith(OPEN_CLIP) or not named.dimensions:
        return None
    model = timm.create_model(named.name, num_classes=named.dimensions, **named.arguments)
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.in_features != encoder.head.in_features:
        return None
    missing, unknown = model.load_state_dict(encoder.tower.state_dict(), strict=False)
    if unknown or len(missing) != 2:
        return None
    classifier.load_state_dict(encoder.head.state_dict())
    return model.eval()


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def write_onnx(encoder: ImageEncoder, images: Tensor, path: Path) -> float:
    """Write the encoder as ONNX and return how far its result is from torch's, for another number of pictures."""
    import onnxruntime

    pictures = torch.export.Dim("pictures")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of operators, nothing that a user could change
        torch.onnx.export(
            encoder,
            (images[:2],),
            path,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: pictures}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        return difference(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), encoder(images))


@torch.no_grad()
def _write_weights(encoder: ImageEncoder, named: Encoder, images: Tensor, path: Path) -> dict[str, Any]:
    """Write ``model.safetensors``; returns what ``encoder.json`` says of it."""
    model = timm_model(encoder, named)
    if model is None:
        save_tensors(path, encoder.state_dict())
        return {"loads_with": "pretrain.encoder.image_encoder.build_encoder(...).load_state_dict"}
    save_tensors(path, model.state_dict())
    pixels = (images.float() / 255 - encoder.mean) / encoder.std
    return {"loads_with": "timm.create_model", "difference": difference(model(pixels), encoder(images))}


def export_encoder(settings: Settings) -> dict[str, Any]:
    """Write the folder and return what ``encoder.json`` says.

    Raises
    ------
    UserError
        If a file's result is further from torch's than the tolerance.
    """
    table = export.Settings(
        data=settings.data or "", out="", run=settings.run, weights=settings.weights, wise_ft=settings.wise_ft
    )
    encoder, says = export.load_encoder(table)
    encoder, named = encoder.cpu().eval(), Encoder(**says.pop("encoder"))
    images = torch.randint(0, 256, (3, 3, named.image_size, named.image_size), dtype=torch.uint8)
    with whole_folder(settings.out) as folder:
        info = {
            "name": named.name,
            "arguments": {**named.arguments, "num_classes": named.dimensions},
            "dimensions": encoder.dimensions,
            "preprocessing": export.preprocessing(encoder, named.image_size),
            **says,
            "model.safetensors": _write_weights(encoder, named, images, folder / "model.safetensors"),
        }
        if settings.onnx:
            info["encoder.onnx"] = {"difference": write_onnx(encoder, images, folder / "encoder.onnx")}
        for name in ("model.safetensors", "encoder.onnx"):
            if (far := info.get(name, {}).get("difference", 0.0)) > TOLERANCE:
                raise UserError(
                    f"{name} gives other embeddings than torch: {far:.1e} of the largest entry; not written"
                )
        write_json(folder / "encoder.json", info)
    return info


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    info = export_encoder(settings)
    for name in ("model.safetensors", "encoder.onnx"):
        if name in info:
            far = info[name].get("difference")
            checked = f"{far:.1e} from torch" if far is not None else info[name]["loads_with"]
            Console().print(f"{settings.out}/{name}: {checked}", highlight=False)


if __name__ == "__main__":
    run_command(main)
