"""Export embeddings of a catalogue: checkpoint and shards in, embedding table out, each picture encoded once.

accelerate launch pretrain/export.py --run runs/my-run --data SHARDS --out TABLE
accelerate launch pretrain/export.py --run runs/my-run --weights initial --data SHARDS --out TABLE    # before training
accelerate launch pretrain/export.py --run runs/my-run --wise_ft validation --data SHARDS --out TABLE # between the two
accelerate launch pretrain/export.py --encoder.name resnet50 --encoder.weights FILE --data SHARDS --out TABLE
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import digest, read_json, whole_folder, write_json
from data_tools.sharding.read import Place, Shards, open_shards
from data_tools.tables.table import describe, write_part
from pretrain.data.pictures import decoded
from pretrain.data.transforms import plain_transform
from pretrain.data.workers import loader_processes
from pretrain.encoder.image_encoder import ImageEncoder, build_encoder
from pretrain.evaluation.page_auc import load_requests
from pretrain.evaluation.wise_ft import choose_factor, interpolate
from pretrain.runtime.memory import keep_freed_memory
from pretrain.runtime.trial import try_out
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
        dry_run: Write nothing; say from a short trial what the export will take.
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
    dry_run: bool = False
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


@dataclass
class Chunk:
    """Pictures that are encoded together: the group of items they are of, their item ids and places."""

    group: int
    ids: list[Any]
    places: list[Place]


def chunks_of(shards: Shards, groups: Iterable[int], size: int) -> Iterator[Chunk]:
    """The pictures of some groups of items, at most ``size`` of one group together."""
    for group in groups:
        records, pictures = shards.records("items", group), shards.pictures("items", group)
        for start in range(0, len(records), size):
            some = records[start : start + size]
            yield Chunk(group, [one["item_id"] for one in some], [pictures.place(one["item"]) for one in some])


def encoded(encoder: ImageEncoder, chunks: Iterator[Chunk], settings: Settings) -> Iterator[tuple[Chunk, Tensor, int]]:
    """Each chunk with its vectors, float32 (n, D), and how many of its pictures are broken.

    Broken pictures have no vector, and the chunk keeps the ids of the others alone. The next chunks are decoded in
    loader processes meanwhile.
    """
    ahead: deque[Chunk] = deque()

    def places() -> Iterator[list[Place]]:
        for chunk in chunks:
            ahead.append(chunk)
            yield chunk.places

    for images, readable in decoded(places(), settings.encoder.image_size):
        chunk = ahead.popleft()
        ids = [one for one, good in zip(chunk.ids, readable.tolist(), strict=True) if good]
        broken = len(chunk.ids) - len(ids)
        if ids:
            yield replace(chunk, ids=ids), encode(encoder, images[readable] if broken else images, settings), broken
        else:
            yield replace(chunk, ids=[]), torch.empty(0), broken


def export_groups(
    encoder: ImageEncoder, shards: Shards, groups: Iterable[int], folder: Path, settings: Settings, advance: Any
) -> tuple[int, int, int]:
    """Embed some groups of items, each into one part of the table.

    Returns
    -------
    count, size, broken : number of vectors, their size D (0 without any), and the pictures that have none
    """
    count, size, broken = 0, 0, 0
    whole = groupby(encoded(encoder, chunks_of(shards, groups, settings.batch), settings), lambda one: one[0].group)
    for group, parts in whole:
        ids: list[Any] = []
        vectors: list[Tensor] = []
        for chunk, found, lost in parts:
            ids += chunk.ids
            vectors += [found] if chunk.ids else []
            broken += lost
            advance(len(chunk.places))
        if ids:
            table = torch.cat(vectors).to(getattr(torch, settings.dtype)).numpy()
            write_part(folder / f"part-{group:05d}.parquet", ids, table)
            count, size = count + len(ids), table.shape[1]
    return count, size, broken


def preprocessing(encoder: ImageEncoder, image_size: int) -> dict[str, Any]:
    """How a picture becomes the tower's input."""
    return {
        "image_size": image_size,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "resize": "whole picture to a square, bilinear with antialiasing",
    }


def plan_export(encoder: ImageEncoder, shards: Shards, settings: Settings, processes: int) -> dict[str, Any]:
    """What an export will take, as ``plan``: lines to print."""
    images = sum(group["items"] for group in shards.listed("items"))
    width: list[int] = []
    trial = try_out(
        "export",
        shards,
        plain_transform(settings.encoder.image_size),
        lambda batch: width.append(encode(encoder, batch, settings).shape[1]),
        images=images,
        batch=settings.batch,
        workers=loader_processes(None),
        processes=processes,
        written=0,
    )
    written = images * width[0] * (4 if settings.dtype == "float32" else 2)
    return {"plan": replace(trial, written=written).lines()}


def export(settings: Settings) -> dict[str, Any]:
    """Export on all processes, each its share of the catalogue shards; returns what ``table.json`` says."""
    use_all_cores()
    keep_freed_memory()
    state = PartialState(cpu=not torch.cuda.is_available())
    shards = open_shards(settings.data)
    encoder, says = load_encoder(settings)
    settings.encoder = Encoder(**says["encoder"])
    encoder.to(state.device)
    started, listed = time.time(), shards.listed("items")
    if settings.dry_run:
        return plan_export(encoder, shards, settings, state.num_processes)
    with ExitStack() as stack:
        folder = str(stack.enter_context(whole_folder(settings.out))) if state.is_main_process else None
        folder = Path(broadcast_object_list([folder])[0])
        mine = range(state.process_index, len(listed), state.num_processes)
        progress = stack.enter_context(progress_bar(state.is_main_process))
        bar = progress.add_task("encoding", total=sum(listed[group]["items"] for group in mine))
        found = export_groups(encoder, shards, mine, folder, settings, lambda n: progress.advance(bar, n))
        count, size, broken = zip(*gather_object([found]), strict=True)
        info: dict[str, Any] = {}
        if state.is_main_process:
            if not sum(count):
                raise UserError(f"none of the {sum(broken)} pictures of {settings.data} can be decoded")
            info = {
                **describe(sum(count), max(size), settings.dtype),
                "broken_pictures": sum(broken),
                "normalised": settings.normalise,
                "layer": settings.layer,
                **says,
                "preprocessing": preprocessing(encoder, settings.encoder.image_size),
                "dataset_fingerprint": shards.index["dataset_fingerprint"],
                "seconds": time.time() - started,
            }
            write_json(folder / "table.json", info)
    state.wait_for_everyone()
    return info


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    info = export(settings)
    if settings.dry_run:
        Console(highlight=False, soft_wrap=True).print("\n".join(info["plan"]))
    elif info:
        rate = info["count"] / info["seconds"]
        Console().print(
            f"{settings.out}: {info['count']:,} vectors of size {info['size']}, each picture encoded once, "
            f"{rate:,.0f} images/s",
            highlight=False,
        )
        if info["broken_pictures"]:
            Console().print(f"{info['broken_pictures']:,} pictures could not be decoded: their items have no vector")


if __name__ == "__main__":
    run_command(main)
