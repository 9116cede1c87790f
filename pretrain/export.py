"""Export embeddings of a catalogue: checkpoint and shards in, embedding table out, each picture encoded once.

accelerate launch pretrain/export.py --run runs/my-run --data SHARDS --out TABLE
accelerate launch pretrain/export.py --run runs/my-run --weights initial --data SHARDS --out TABLE    # before training
accelerate launch pretrain/export.py --run runs/my-run --wise_ft validation --data SHARDS --out TABLE # between the two
accelerate launch pretrain/export.py --encoder.name resnet50 --encoder.weights FILE --data SHARDS --out TABLE
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.checks import Checked
from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.files import whole_folder, write_json
from data_tools.tables.table import describe, write_part
from pretrain.data.stream import plain_transform, read_index, read_shard
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.saved_encoder import check_wise_ft, generic_encoder, load_run_encoder, preprocessing
from pretrain.runtime.precision import use_all_cores
from pretrain.settings import Encoder


@dataclass(frozen=True)
class Settings(Checked):
    """Export a catalogue's embeddings.

    Attributes
    ----------
    data : str
        Folder of shards whose catalogue is embedded.
    out : str
        Table folder to write.
    run : str or None
        Pre-training run; null exports the encoder that the encoder section names (a generic encoder).
    weights : str
        Of the run: trained (best on validation) or initial (before training).
    wise_ft : float, str or None
        Average of the run's initial (0) and trained (1) weights: a factor, or "validation" for the one with the best
        within-page AUC on the validation split of data; null takes weights as they are.
    layer : str or None
        embedding (the linear layer's output) or features (what the image tower gives); null takes embedding for a run,
        and features for an encoder without one, whose linear layer is untrained.
    normalise : bool
        Scale each vector to length 1.
    dtype : str
        float32 or float16.
    batch : int
        Pictures encoded at a time.
    encoder : Encoder
        The encoder to export where no run is given.
    """

    data: str
    out: str
    run: str | None = None
    weights: Literal["trained", "initial"] = "trained"
    wise_ft: float | str | None = None
    layer: Literal["embedding", "features"] | None = None
    normalise: bool = True
    dtype: Literal["float32", "float16"] = "float32"
    batch: PositiveInt = 256
    encoder: Encoder = field(default_factory=Encoder)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", self.layer or ("embedding" if self.run else "features"))
        check_wise_ft(self.wise_ft, self.weights, self.run)


@torch.no_grad()
def encode(encoder: ImageEncoder, images: Tensor, settings: Settings) -> Tensor:
    """Vectors, (N, D) in float32, of pictures, uint8 (N, 3, S, S), at the settings' layer."""
    layer = encoder if settings.layer == "embedding" else encoder.features
    vectors = layer(images.to(encoder.mean.device)).float().cpu()
    return F.normalize(vectors, dim=-1) if settings.normalise else vectors


def export_shard(encoder: ImageEncoder, shard: Path, part: Path, settings: Settings) -> tuple[int, int]:
    """Embed one catalogue shard into one part of the table; returns the number of pictures and the size D."""
    images, records = read_shard(shard)
    transform = plain_transform(settings.encoder.image_size)
    vectors = []
    for start in range(0, len(records), settings.batch):
        chunk = records[start : start + settings.batch]
        pictures = torch.stack([transform(transform.decode(images[record["item"]])) for record in chunk])
        vectors.append(encode(encoder, pictures, settings))
    table = torch.cat(vectors).to(getattr(torch, settings.dtype)).numpy()
    write_part(part, [record["item_id"] for record in records], table)
    return table.shape


def export_shards(
    encoder: ImageEncoder, index: dict[str, Any], folder: Path, *, settings: Settings, progress: Progress
) -> int:
    """Embed this process's share of the catalogue shards into parts of the table; returns the size D."""
    state = PartialState()
    mine = range(state.process_index, len(index["items"]), state.num_processes)
    bar = progress.add_task("encoding", total=sum(index["items"][shard]["items"] for shard in mine))
    size = 0
    for shard in mine:
        file = Path(settings.data) / index["items"][shard]["file"]
        count, size = export_shard(encoder, file, folder / f"part-{shard:05d}.parquet", settings)
        progress.advance(bar, count)
    return size


def export(settings: Settings) -> dict[str, Any]:
    """Export on all processes, each its share of the catalogue shards; returns what ``table.json`` says."""
    use_all_cores()
    state = PartialState(cpu=not torch.cuda.is_available())
    index = read_index(settings.data)
    if settings.run:
        encoder, named, record = load_run_encoder(
            Path(settings.run), settings.weights, wise_ft=settings.wise_ft, data=settings.data
        )
        settings = replace(settings, encoder=named)
    else:
        encoder, record = generic_encoder(settings.encoder)
    encoder.to(state.device)
    started = time.time()
    info: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = str(stack.enter_context(whole_folder(settings.out))) if state.is_main_process else None
        folder = Path(broadcast_object_list([folder])[0])
        progress = stack.enter_context(progress_bar(state.is_main_process))
        size = export_shards(encoder, index, folder, settings=settings, progress=progress)
        state.wait_for_everyone()
        if state.is_main_process:
            info = {
                **describe(sum(shard["items"] for shard in index["items"]), size, settings.dtype),
                "normalised": settings.normalise,
                "layer": settings.layer,
                **record,
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
