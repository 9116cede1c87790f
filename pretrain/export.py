"""Export embeddings of a catalogue: checkpoint and shards in, embedding table out, each picture encoded once.

accelerate launch pretrain/export.py --run runs/my-run --data SHARDS --out TABLE
accelerate launch pretrain/export.py --run runs/my-run --weights initial --data SHARDS --out TABLE    # before training
accelerate launch pretrain/export.py --run runs/my-run --wise_ft validation --data SHARDS --out TABLE # between the two
accelerate launch pretrain/export.py --encoder.name resnet50 --encoder.weights FILE --data SHARDS --out TABLE

A run on vectors (--encoder.family table) is exported for every vector of its table, or of another one by --vectors.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import compress, groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from jsonargparse.typing import PositiveInt
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import whole_folder, write_json
from data_tools.common.launch import as_launched
from data_tools.sharding.files import SEVERAL_PICTURES
from data_tools.sharding.read import Place, Shards, open_shards
from data_tools.tables.table import describe, read_table, write_part
from pretrain.data.pictures import decoded, encoded_in_threads
from pretrain.data.transforms import plain_transform
from pretrain.data.workers import loader_processes
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.saved_encoder import check_wise_ft, generic_encoder, load_run_encoder, preprocessing
from pretrain.runtime.cpu import own_cores, prepare_cpu
from pretrain.runtime.memory import encoded_by_a_thread, pieces
from pretrain.runtime.trial import refuse_vectors, try_out
from pretrain.settings import Encoder

ROWS_A_PART = 100_000  # of a table of vectors


@dataclass(frozen=True)
class Settings(Checked):
    """Export a catalogue's embeddings.

    Attributes
    ----------
    data : str
        Folder of shards whose catalogue is embedded, or its URL.
    out : str
        Table folder to write.
    run : str or None
        Pre-training run; null exports the encoder that the encoder section names (a generic encoder).
    weights : str
        Which weights of the run: trained (best on validation), last (of its latest checkpoint) or initial (before
        training).
    vectors : str or None
        Of a run on vectors: the table whose vectors are exported, such as one with new items; null takes the table that
        it was trained on.
    wise_ft : float, str or None
        Average of the run's initial (0) and trained (1) weights: a factor, or "validation" for the one with the best
        within-page AUC on the validation split of data; null takes weights as they are.
    layer : str or None
        embedding (the linear layer's output), features (what the image tower gives) or stages (means and deviations of
        every stage's maps, then the features: colour and texture, too; models of timm); null takes embedding for a run,
        and features for an encoder without one, whose linear layer is untrained.
    pictures : str
        Of items with several: mean averages the vectors of all of an item's pictures (normalised, where vectors are,
        before and after), first takes its first picture alone, and each keeps a vector for every picture: the first
        under the item's id, the others under ID/1, ID/2, ...
    normalise : bool
        Scale each vector to length 1.
    dtype : str
        float32 or float16.
    batch : int
        Pictures encoded at a time.
    dry_run : bool
        Write nothing; print from a short trial what the export will take.
    encoder : Encoder
        The encoder to export where no run is given.
    """

    data: str
    out: str
    run: str | None = None
    weights: Literal["trained", "last", "initial"] = "trained"
    vectors: str | None = None
    wise_ft: float | str | None = None
    layer: Literal["embedding", "features", "stages"] | None = None
    pictures: Literal["mean", "first", "each"] = "mean"
    normalise: bool = True
    dtype: Literal["float32", "float16"] = "float32"
    batch: PositiveInt = 256
    dry_run: bool = False
    encoder: Encoder = field(default_factory=Encoder)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", self.layer or ("embedding" if self.run else "features"))
        check_wise_ft(self.wise_ft, self.weights, self.run)


@torch.no_grad()
def encode(encoder: ImageEncoder, images: Tensor, settings: Settings) -> Tensor:
    """Vectors, (N, D) in float32, of pictures, uint8 (N, 3, S, S), at the settings' layer."""
    layer = {"embedding": encoder, "features": encoder.features, "stages": encoder.stages}[settings.layer]
    device = encoder.mean.device
    vectors = torch.cat([layer(part.to(device)).float().cpu() for part in pieces(images, device)])
    return F.normalize(vectors, dim=-1) if settings.normalise else vectors


class Picture(NamedTuple):
    """A picture to encode: the group of items that its own is in, that item's id, and its place."""

    group: int
    item_id: Any
    place: Place


def pictures_of(shards: Shards, groups: Iterable[int], settings: Settings) -> Iterator[Picture]:
    """The pictures of some groups of items, those of an item in a row."""
    for group in groups:
        records, pictures = shards.records("items", group), shards.pictures("items", group)
        for one in records:
            for number in pictures.of_item(one["item"]) if settings.pictures != "first" else [one["item"]]:
                yield Picture(group, one["item_id"], pictures.place(number))


def by_item(ids: list[Any], vectors: Tensor, settings: Settings) -> tuple[list[Any], Tensor]:
    """Ids and vectors (n, D) of pictures, those of an item in a row, as the settings want them in the table."""
    pictures = [list(own) for _, own in groupby(ids)]
    if settings.pictures == "each":
        return [f"{own[k]}/{k}" if k else str(own[k]) for own in pictures for k in range(len(own))], vectors
    if len(pictures) == len(ids):
        return ids, vectors
    means = torch.stack([part.mean(dim=0) for part in vectors.split([len(own) for own in pictures])])
    return [own[0] for own in pictures], F.normalize(means, dim=-1) if settings.normalise else means


def in_threads(encoder: ImageEncoder, settings: Settings) -> bool:
    """Whether each core encodes on its own: not where a compiler makes code for all of them, or a GPU's."""
    return encoder.mean.device.type == "cpu" and not settings.encoder.compile


def vectors_of(
    encoder: ImageEncoder, chunks: Iterable[list[Place]], settings: Settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors, float32 (n, D), of chunks of pictures, and which of these can be read, bool (n,).

    On a CPU each core encodes a chunk, with a GPU the next chunks are decoded in loader processes meanwhile.
    """
    size = settings.encoder.image_size
    if in_threads(encoder, settings):
        yield from encoded_in_threads(chunks, size, lambda images: encode(encoder, images, settings), own_cores())
        return
    for images, readable in decoded(chunks, size):
        yield encode(encoder, images, settings), readable


def encoded(
    encoder: ImageEncoder, pictures: Iterable[Picture], settings: Settings
) -> Iterator[tuple[int, list[Any], Tensor, int]]:
    """Runs of pictures of one group: the group, the ids and vectors, float32 (n, D), of those that can be read, and how
    many there are.

    Chunks reach from one group into the next, so that all but the last have as many pictures: oneDNN compiles every
    convolution anew for another number.
    """
    size, pictures = settings.batch, iter(pictures)
    if in_threads(encoder, settings):
        size = encoded_by_a_thread(settings.encoder.image_size, size)
    ahead: deque[list[Picture]] = deque()

    def places() -> Iterator[list[Place]]:
        while chunk := list(islice(pictures, size)):
            ahead.append(chunk)
            yield [one.place for one in chunk]

    for vectors, readable in vectors_of(encoder, places(), settings):
        start = 0
        for group, run in groupby(ahead.popleft(), lambda one: one.group):
            ids = [one.item_id for one in run]
            rows = slice(start, start := start + len(ids))
            good = readable[rows]
            yield group, list(compress(ids, good.tolist())), vectors[rows][good], len(ids)


def export_groups(
    encoder: ImageEncoder, shards: Shards, groups: Iterable[int], folder: Path, settings: Settings, advance: Any
) -> tuple[int, int, int]:
    """Embed some groups of items, each into one part of the table.

    Returns
    -------
    count, size, broken : number of vectors, their size D (0 without any), and the pictures that have none
    """
    count, size, broken = 0, 0, 0
    runs = encoded(encoder, pictures_of(shards, groups, settings), settings)
    for group, parts in groupby(runs, lambda run: run[0]):
        ids: list[Any] = []
        vectors: list[Tensor] = []
        for _, read, found, pictures in parts:
            ids += read
            vectors.append(found)
            broken += pictures - len(read)
            advance(pictures)
        if ids:
            ids, table = by_item(ids, torch.cat(vectors), settings)
            table = table.to(getattr(torch, settings.dtype)).numpy()
            write_part(folder / f"part-{group:05d}.parquet", ids, table)
            count, size = count + len(ids), table.shape[1]
    return count, size, broken


def export_rows(encoder: ImageEncoder, folder: Path, settings: Settings, advance: Any) -> tuple[int, int, int]:
    """Embed every vector of a table with an encoder that takes items; see :func:`export_groups`.

    Raises
    ------
    UserError
        If the vectors have another size than those the encoder was trained on.
    """
    table = read_table(settings.vectors or settings.encoder.name)
    tower = encoder.tower
    if table.vectors.shape[1] != len(tower.centre):
        raise UserError(
            f"{settings.vectors} has vectors of size {table.vectors.shape[1]}, the run was trained on vectors of size "
            f"{len(tower.centre)}; give a table made by the same encoder"
        )
    tower.vectors = torch.from_numpy(table.vectors).to(encoder.mean.device)
    state = PartialState()
    step = ROWS_A_PART * state.num_processes
    count, size = 0, 0
    for start in range(ROWS_A_PART * state.process_index, len(table.ids), step):
        rows = torch.arange(start, min(start + ROWS_A_PART, len(table.ids)))
        vectors = torch.cat([encode(encoder, some, settings) for some in rows.split(settings.batch)])
        found = vectors.to(getattr(torch, settings.dtype)).numpy()
        write_part(folder / f"part-{start // ROWS_A_PART:05d}.parquet", [table.ids[row] for row in rows], found)
        count, size = count + len(rows), found.shape[1]
        advance(len(rows))
    return count, size, 0


def plan_export(encoder: ImageEncoder, shards: Shards, settings: Settings, processes: int) -> dict[str, Any]:
    """What an export will take, as ``plan``: lines to print.

    Raises
    ------
    UserError
        If the encoder takes no pictures.
    """
    refuse_vectors(encoder.family.takes)
    images = sum(group["items"] for group in shards.listed("items"))
    width: list[int] = []
    trial = try_out(
        "export",
        shards,
        plain_transform(settings.encoder.image_size),
        lambda batch: width.append(encode(encoder, batch, settings).shape[1]),
        images=images,
        batch=settings.batch,
        workers=loader_processes(None) if torch.cuda.is_available() else own_cores(),
        processes=processes,
        written=0,
    )
    written = images * width[0] * (4 if settings.dtype == "float32" else 2)
    return {"plan": replace(trial, written=written).lines()}


def _load(settings: Settings) -> tuple[ImageEncoder, Settings, dict[str, Any]]:
    """The encoder that is exported, the settings with its own in ``encoder``, and what ``table.json`` says of it."""
    if settings.run:
        encoder, named, record = load_run_encoder(
            Path(settings.run), settings.weights, wise_ft=settings.wise_ft, data=settings.data
        )
        settings = replace(settings, encoder=named)
    else:
        encoder, record = generic_encoder(settings.encoder)
    if settings.vectors and encoder.family.takes != "items":
        raise UserError(f"--vectors is {settings.vectors}, but the encoder takes pictures: remove it")
    return encoder, settings, record


def _described(encoder: ImageEncoder, shards: Shards, settings: Settings, record: dict[str, Any]) -> dict[str, Any]:
    """What ``table.json`` says of how its vectors are made; ``record`` is what it says of the encoder."""
    several = shards.index["format_version"] == SEVERAL_PICTURES
    return {
        "normalised": settings.normalise,
        **({"pictures": settings.pictures} if several else {}),
        "layer": settings.layer,
        **record,
        "preprocessing": preprocessing(encoder, settings.encoder.image_size),
        "dataset_fingerprint": shards.index["dataset_fingerprint"],
    }


def export(settings: Settings) -> dict[str, Any]:
    """Export on all processes, each its share of the catalogue shards; returns what ``table.json`` says."""
    prepare_cpu()
    with as_launched():
        state = PartialState(cpu=not torch.cuda.is_available())
    shards = open_shards(settings.data)
    encoder, settings, record = _load(settings)
    encoder.to(state.device)
    started, listed = time.time(), shards.listed("items")
    info: dict[str, Any] = {}
    if settings.dry_run:
        return plan_export(encoder, shards, settings, state.num_processes)
    with ExitStack() as stack:
        folder = str(stack.enter_context(whole_folder(settings.out))) if state.is_main_process else None
        folder = Path(broadcast_object_list([folder])[0])
        mine = range(state.process_index, len(listed), state.num_processes)
        progress = stack.enter_context(progress_bar(state.is_main_process))
        bar = progress.add_task("encoding", total=sum(listed[group]["items"] for group in mine))
        if encoder.family.takes == "items":
            found = export_rows(encoder, folder, settings, lambda n: progress.advance(bar, n))
        else:
            found = export_groups(encoder, shards, mine, folder, settings, lambda n: progress.advance(bar, n))
        count, size, broken = zip(*gather_object([found]), strict=True)
        if state.is_main_process:
            if not sum(count):
                raise UserError(f"none of the {sum(broken)} pictures of {settings.data} can be decoded")
            info = {
                **describe(sum(count), max(size), settings.dtype, folder=folder),
                "broken_pictures": sum(broken),
                **_described(encoder, shards, settings, record),
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
