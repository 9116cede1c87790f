"""Export the encoder itself: weights that timm loads, and ONNX, both checked against torch.

python -m pretrain.export_encoder --run runs/my-run --out runs/my-run/encoder
python -m pretrain.export_encoder --run runs/my-run --wise_ft validation --data SHARDS --out FOLDER

``model.safetensors``  the weights, for ``timm.create_model(name, num_classes=D, checkpoint_path=FILE, **arguments)``,
                       whose classifier is the embedding's linear layer; it takes normalised pixels. Of open_clip's
                       models, for ``open_clip.create_model(name, **arguments).visual.load_state_dict``, and in
                       ``head.safetensors`` those of the linear layer behind it, ``torch.nn.Linear(F, D)``, if any
``encoder.onnx``       pictures, uint8 (N, 3, S, S) called ``images``, to ``embeddings``, float32 (N, D): it normalises
                       the pixels itself, and N is free
``encoder.json``       name, arguments, size, preprocessing, checkpoint, until when the log reaches that it saw
                       (``saw_until``), and how far each file's result was from torch's
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import whole_folder, write_json
from data_tools.common.tensors import write_tensors
from data_tools.tables.seen import Seen
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.saved_encoder import check_wise_ft, load_run_encoder, preprocessing
from pretrain.settings import Encoder

# Largest difference from torch's embedding, relative to its largest entry (our choice).
TOLERANCE = 1e-3
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Settings(Checked):
    """Export a trained encoder for use elsewhere.

    Attributes
    ----------
    run : str
        Pre-training run.
    out : str
        Folder to write.
    weights : str
        Which weights of the run: trained (best on validation), last (of its latest checkpoint) or initial (before
        training).
    wise_ft : float, str or None
        Average of the initial (0) and the trained (1) weights, or "validation"; see pretrain/export.py.
    data : str or None
        Shards on whose validation split wise_ft "validation" chooses.
    onnx : bool
        Whether to write ONNX, too; it needs the extra "onnx".
    """

    run: str
    out: str
    weights: Literal["trained", "last", "initial"] = "trained"
    wise_ft: float | str | None = None
    data: str | None = None
    onnx: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wise_ft(self.wise_ft, self.weights, self.run)
        if self.wise_ft == "validation" and not self.data:
            raise UserError("--wise_ft validation needs --data, the shards on whose validation split it chooses")
        if self.onnx and not all(importlib.util.find_spec(name) for name in ONNX_PACKAGES):
            raise UserError(
                f"ONNX needs {', '.join(ONNX_PACKAGES)}: pip install 'visual-interest[onnx]', or --onnx false"
            )


def with_classifier(encoder: ImageEncoder, named: Encoder) -> nn.Module | None:
    """The same network as the family's own model, whose classifier is the linear layer; None where it has none."""
    model = encoder.family.with_classifier(named.name, named.dimensions, named.image_size) if named.dimensions else None
    classifier = model.get_classifier() if model is not None else None
    if not isinstance(classifier, nn.Linear) or classifier.in_features != encoder.head.in_features:
        return None
    missing, unknown = model.load_state_dict(encoder.tower.state_dict(), strict=False)
    if unknown or len(missing) != 2:
        return None
    classifier.load_state_dict(encoder.head.state_dict())
    return model.eval()


def own_tower(encoder: ImageEncoder, named: Encoder) -> nn.Module | None:
    """The family's own image tower with the encoder's weights; None where nothing else loads it."""
    if not encoder.family.loader:
        return None
    tower = encoder.family.without_hub().build(encoder.family.known_as(named.name), named.image_size).module
    tower.load_state_dict(encoder.tower.state_dict())
    return tower.eval()


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def write_onnx(encoder: ImageEncoder, images: Tensor, path: Path) -> float:
    """Write the encoder as ONNX and return how far its result is from torch's, for another number of pictures."""
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
    onnxruntime = importlib.import_module("onnxruntime")  # an extra, which is not always installed
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        return difference(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), encoder(images))


@torch.no_grad()
def _write_weights(
    encoder: ImageEncoder, named: Encoder, images: Tensor, path: Path, saw_until: Seen
) -> dict[str, Any]:
    """Write ``model.safetensors``; returns what ``encoder.json`` says of it."""
    model = with_classifier(encoder, named)
    about = None if saw_until is None else {"saw_until": str(saw_until)}
    pixels = (images.float() / 255 - encoder.mean) / encoder.std
    if model is not None:
        write_tensors(path, model.state_dict(), about)
        return {"loads_with": "timm.create_model", "difference": difference(model(pixels), encoder(images))}
    if (tower := own_tower(encoder, named)) is not None:
        write_tensors(path, tower.state_dict(), about)
        if named.dimensions:
            write_tensors(path.with_name("head.safetensors"), encoder.head.state_dict(), about)
        found = encoder.head(tower(pixels))
        return {"loads_with": encoder.family.loader, "difference": difference(found, encoder(images))}
    write_tensors(path, encoder.state_dict(), about)
    return {"loads_with": "pretrain.encoder.image_encoder.build_encoder(...).load_state_dict"}


def export_encoder(settings: Settings) -> dict[str, Any]:
    """Write the folder and return what ``encoder.json`` says.

    Raises
    ------
    UserError
        If a file's result is further from torch's than the tolerance, or the run's encoder takes no pictures.
    """
    encoder, named, record = load_run_encoder(
        Path(settings.run), settings.weights, wise_ft=settings.wise_ft, data=settings.data
    )
    if encoder.family.takes != "pictures":
        raise UserError(
            f"{settings.run} was trained on vectors, not on pictures; export its vectors with pretrain/export.py --run"
        )
    encoder = encoder.cpu()
    images = torch.randint(0, 256, (3, 3, named.image_size, named.image_size), dtype=torch.uint8)
    classes = {} if encoder.family.loader else {"num_classes": named.dimensions}
    with whole_folder(settings.out) as folder:
        info = {
            "name": named.name,
            "family": named.family,
            "arguments": {**encoder.family.arguments(named.name, named.image_size), **classes},
            "dimensions": encoder.dimensions,
            "preprocessing": preprocessing(encoder, named.image_size),
            **{key: value for key, value in record.items() if key != "encoder"},
            "model.safetensors": _write_weights(
                encoder, named, images, folder / "model.safetensors", record["saw_until"]
            ),
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
