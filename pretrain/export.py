"""Export embeddings of a catalogue: checkpoint and shards in, embedding table out, each picture encoded once.

accelerate launch pretrain/export.py --run runs/my-run --data SHARDS --out TABLE
accelerate launch pretrain/export.py --run runs/my-run --weights initial --data SHARDS --out TABLE    # before training
accelerate launch pretrain/export.py --run runs/my-run --wise_ft validation --data SHARDS --out TABLE # between the two
accelerate launch pretrain/export.py --encoder.name resnet50 --encoder.weights FILE --data SHARDS --out TABLE
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import digest, read_json, whole_folder, write_json
from data_tools.tables.table import describe, write_part
from pretrain.data.stream import plain_transform, read_index, read_shard
from pretrain.encoder.image_encoder import ImageEncoder, build_encoder
from pretrain.evaluation.page_auc import load_requests
from pretrain.evaluation.wise_ft import choose_factor, interpolate
from pretrain.settings import Encoder, Evaluation
from pretrain.training.optim import use_all_cores

WEIGHTS = {"trained": "best", "initial": "initial"}


@dataclass
class Settings:
    """Export a catalogue's embeddings.

    Attributes:
        data: Folder of shards whose catalogue is embedded.
        out: Table folder to write.
        run: Pre-training run; null exports the encoder named by the encoder section as it is (a generic encoder).
        weights: Of the run: trained (best on validation) or initial (before training).
        wise_ft: Weights between the run's initial (0) and trained (1) ones: a factor, or "validation" for the one with
            the best within-page AUC on the validation split of data; null takes weights as they are.
        layer: embedding (the linear layer's output) or features (what the image tower gives); null takes embedding for
            a run, and features for an encoder without one, whose linear layer has learned nothing.
        normalise: Scale each vector to length 1.
        dtype: float32 or float16.
        batch: Pictures encoded at a time.
        encoder: The encoder to export where no run is given.
    """

    data: str
    out: str
    run: str | None = None
    weights: str = "trained"
    wise_ft: float | str | None = None
    layer: str | None = None
    normalise: bool = True
    dtype: str = "float32"
    batch: int = 256
    encoder: Encoder = field(default_factory=Encoder)

    def __post_init__(self) -> None:
        self.layer = self.layer or ("embedding" if self.run else "features")
        for name, allowed in (
            ("weights", tuple(WEIGHTS)),
            ("layer", ("embedding", "features")),
            ("dtype", ("float32", "float16")),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name} is {getattr(self, name)!r}; {' or '.join(allowed)} is expected")
        share = self.wise_ft in (None, "validation") or (
            isinstance(self.wise_ft, float | int) and 0 <= self.wise_ft <= 1
        )
        if not share:
            raise UserError(f"--wise_ft is {self.wise_ft!r}; a number from 0 to 1, or validation, is expected")
        if self.wise_ft is not None and (not self.run or self.weights != "trained"):
            raise UserError("--wise_ft goes between the weights of a --run, whose --weights are trained")


def load_encoder(settings: Settings) -> tuple[ImageEncoder, dict[str, Any]]:
    """The encoder to export, in evaluation mode, and what ``table.json`` says of it.

    Raises
    ------
    UserError
        If the run has no such weights.
    """
    if not settings.run:
        file = settings.encoder.weights
        says = {"weights": "as named", "checkpoint": digest([file]) if file else None, "run": None}
        return build_encoder(settings.encoder).eval(), {"encoder": asdict(settings.encoder), **says}
    run = Path(settings.run)
    trained_with = read_json(run / "run.json")["settings"]
    named = Encoder(**trained_with["encoder"])
    file = run / f"{WEIGHTS[settings.weights]}.safetensors"
    if not file.exists():
        raise UserError(f"{file} does not exist; train first: accelerate launch pretrain/train.py --out {run}")
    # The run's own weights replace the initial ones, which need not be at hand any more.
    encoder = build_encoder(replace(named, weights=None, pretrained=False))
    encoder.load_state_dict(safetensors.torch.load_file(file))
    says = {"weights": settings.weights, "checkpoint": digest([file]), "run": str(run)}
    if settings.wise_ft is not None:
        says |= mix_weights(encoder, run, trained_with, settings)
    return encoder.eval(), {"encoder": asdict(named), **says}


def mix_weights(encoder: ImageEncoder, run: Path, trained_with: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Load the weights between the run's initial and trained ones (WiSE-FT); returns what ``table.json`` says of it."""
    files = [run / f"{name}.safetensors" for name in ("initial", "best")]
    initial, tuned = (safetensors.torch.load_file(file) for file in files)
    chosen: list[Any] = [settings.wise_ft, None]
    if settings.wise_ft == "validation":
        state, wanted = PartialState(), Evaluation(**trained_with["evaluation"])
        if state.is_main_process:
            sample = (wanted.history, wanted.requests, trained_with["seed"])
            requests = load_requests(settings.data, "valid", trained_with["encoder"]["image_size"], *sample)
            chosen = list(choose_factor(encoder.to(state.device), initial, tuned, requests, wanted.choose_on))
        chosen = broadcast_object_list(chosen)
    factor, curve = chosen
    encoder.load_state_dict(interpolate(initial, tuned, factor))
    return {"checkpoint": digest(files), "wise_ft": {"factor": factor, "validation": curve}}


@torch.no_grad()
def encode(encoder: ImageEncoder, images: Tensor, settings: Settings) -> Tensor:
    """Vectors, (N, D) in float32, of pictures, uint8 (N, 3, S, S), at the settings' layer."""
    layer = encoder if settings.layer == "embedding" else encoder.features
    vectors = layer(images.to(encoder.mean.device)).float().cpu()
    return F.normalize(vectors, dim=-1) if settings.normalise else vectors


def export_shard(encoder: ImageEncoder, shard: Path, part: Path, settings: Settings, advance: Any) -> tuple[int, int]:
    """Embed one catalogue shard into one part of the table; returns the number of pictures and the size D."""
    images, records = read_shard(shard)
    transform = plain_transform(settings.encoder.image_size)
    vectors = []
    for start in range(0, len(records), settings.batch):
        chunk = records[start : start + settings.batch]
        pictures = torch.stack([transform(transform.decode(images[record["item"]])) for record in chunk])
        vectors.append(encode(encoder, pictures, settings))
        advance(len(chunk))
    table = torch.cat(vectors).to(getattr(torch, settings.dtype)).numpy()
    write_part(part, [record["item_id"] for record in records], table)
    return table.shape


def preprocessing(encoder: ImageEncoder, image_size: int) -> dict[str, Any]:
    """How a picture becomes the tower's input."""
    return {
        "image_size": image_size,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "resize": "whole picture to a square, bilinear with antialiasing",
    }


def export(settings: Settings) -> dict[str, Any]:
    """Export on all processes, each its share of the catalogue shards; returns what ``table.json`` says."""
    use_all_cores()
    state = PartialState(cpu=not torch.cuda.is_available())
    index = read_index(settings.data)
    encoder, says = load_encoder(settings)
    settings.encoder = Encoder(**says["encoder"])
    encoder.to(state.device)
    started = time.time()
    with ExitStack() as stack:
        folder = str(stack.enter_context(whole_folder(settings.out))) if state.is_main_process else None
        folder = Path(broadcast_object_list([folder])[0])
        mine = range(state.process_index, len(index["items"]), state.num_processes)
        progress = stack.enter_context(progress_bar(state.is_main_process))
        bar = progress.add_task("encoding", total=sum(index["items"][shard]["items"] for shard in mine))
        for shard in mine:
            file, part = Path(settings.data) / index["items"][shard]["file"], folder / f"part-{shard:05d}.parquet"
            size = export_shard(encoder, file, part, settings, lambda count: progress.advance(bar, count))[1]
        state.wait_for_everyone()
        info: dict[str, Any] = {}
        if state.is_main_process:
            count = sum(shard["items"] for shard in index["items"])
            info = {
                **describe(count, size, settings.dtype, folder=folder),
                "normalised": settings.normalise,
                "layer": settings.layer,
                **says,
                "preprocessing": preprocessing(encoder, settings.encoder.image_size),
                "dataset_fingerprint": index["dataset_fingerprint"],
                "seconds": time.time() - started,
            }
            write_json(folder / "table.json", info)
    state.wait_for_everyone()
    return info


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    info = export(settings)
    if info:
        rate = info["count"] / info["seconds"]
        Console().print(
            f"{settings.out}: {info['count']:,} vectors of size {info['size']}, each picture encoded once, "
            f"{rate:,.0f} images/s",
            highlight=False,
        )


if __name__ == "__main__":
    run_command(main)
