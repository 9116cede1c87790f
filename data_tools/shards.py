"""Dataset folder -> webdataset shards that pre-training streams.

``items-*.tar``
    Each catalogue image once: ``<item>.jpg`` and ``<item>.json`` (item, item_id, title, category).
``requests-<split>-*.tar``
    Self-contained: first every distinct image the shard mentions (``i<item>.jpg``), then its requests
    (``r<request>.json``): ``history`` (items clicked before the page view, oldest first), ``page`` (items shown),
    ``click`` (0 or 1 each), ``seen`` (1 where the item stands in some training request) and, where known, ``oracle``.
``index.json``
    Files with their counts and digests, so that a loader can check before it starts.

A shard's requests are of one page-view category (that of most of its items), in random order, as COURIER trains: one
category a batch. Categories too rare to fill a batch share mixed shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import webdataset as wds
from rich.console import Console
from rich.progress import track

from data_tools.cli import UserError, parse_settings, run_command
from data_tools.files import digest, whole_folder, write_json
from data_tools.schema import SPLITS, Dataset, open_dataset

FORMAT_VERSION = 1


@dataclass
class Settings:
    """Dataset folder to webdataset shards.

    Attributes:
        dataset: Dataset folder, as prepare writes it.
        out: Folder to write the shards to.
        history: Most recent clicks kept with a request.
        requests_per_shard: Requests in one shard; a multiple of the batch keeps batches of one category.
        smallest_shard: Fewer requests of a category than this go into shards of mixed categories.
        by_category: Whether shards keep categories apart at all; page views that mix categories need not.
        items_per_shard: Catalogue images in one shard.
        seed: Seed of the requests' order.
    """

    dataset: str
    out: str
    history: int = 30
    requests_per_shard: int = 1024
    smallest_shard: int = 256
    by_category: bool = True
    items_per_shard: int = 2048
    seed: int = 0


def page_requests(dataset: Dataset) -> pl.DataFrame:
    """One row a page view: request, user, clicks_before (of its first slot), split, category, and lists over slots."""
    category = pl.col("category").fill_null("") if "category" in dataset.items.columns else pl.lit("")
    impressions = dataset.impressions.join(
        dataset.items.select("item", category=category), on="item", maintain_order="left"
    )
    lists = [name for name in ("item", "click", "oracle") if name in impressions.columns]
    return (
        impressions.group_by("request", maintain_order=True)
        .agg(
            pl.col("user", "split").first(),
            pl.col("clicks_before").min(),
            pl.col("category").mode(maintain_order=True).first(),
            pl.col(*lists),
        )
        .sort("request")
    )


def _with_history(requests: pl.DataFrame, dataset: Dataset, history: int) -> Iterator[dict[str, Any]]:
    """Requests as they stand in a shard; slots and clicks whose item has no picture are left out."""
    pictured = dataset.items["image"].is_not_null().to_numpy()
    clicks = dataset.clicks["items"]
    for row in requests.iter_rows(named=True):
        before = clicks[row["user"]][: row["clicks_before"]].to_numpy()
        kept = [slot for slot, item in enumerate(row["item"]) if pictured[item]]
        yield {
            "request": row["request"],
            "split": row["split"],
            "category": row["category"],
            "history": before[pictured[before]][-history:].tolist(),
            "page": [row["item"][slot] for slot in kept],
            "click": [int(row["click"][slot]) for slot in kept],
            **({"oracle": [row["oracle"][slot] for slot in kept]} if "oracle" in row else {}),
        }


def _chunks(requests: list[dict[str, Any]], settings: Settings) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
    """(category, its requests) a shard: those of one category shuffled and cut, what is too small for a shard mixed."""
    rng = np.random.default_rng(settings.seed)
    size = settings.requests_per_shard
    smallest = min(settings.smallest_shard, size)
    by_category: dict[str, list[dict[str, Any]]] = {}
    for request in requests if settings.by_category else []:
        by_category.setdefault(request["category"], []).append(request)
    mixed = [] if settings.by_category else list(requests)
    for category in sorted(by_category):
        rows = [by_category[category][row] for row in rng.permutation(len(by_category[category]))]
        for start in range(0, len(rows), size):
            if len(part := rows[start : start + size]) < smallest:
                mixed += part
            else:
                yield category, part
    mixed = [mixed[row] for row in rng.permutation(len(mixed))]
    for start in range(0, len(mixed), size):
        yield None, mixed[start : start + size]


def _image_member(dataset: Dataset, item: int, prefix: str = "") -> dict[str, Any]:
    path = dataset.items["image"][item]
    return {"__key__": f"{prefix}{item:09d}", Path(path).suffix[1:]: (dataset.folder / path).read_bytes()}


def _write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write one shard (same samples, same bytes) and describe it."""
    with wds.TarWriter(str(path), encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)
    return {"file": path.name, "bytes": path.stat().st_size, "digest": digest([path])}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _write_items(dataset: Dataset, out: Path, size: int) -> list[dict[str, Any]]:
    items = dataset.items.filter(pl.col("image").is_not_null())
    columns = [name for name in ("item", "item_id", "title", "category") if name in items.columns]

    def samples(part: pl.DataFrame) -> Iterator[dict[str, Any]]:
        for row in part.select(columns).iter_rows(named=True):
            yield {**_image_member(dataset, row["item"]), "json": _json(row)}

    described = []
    for number, part in enumerate(track(list(items.iter_slices(size)), "catalogue shards")):
        file = _write_tar(out / f"items-{number:05d}.tar", samples(part))
        described.append({**file, "items": len(part)})
    return described


def _write_requests(
    dataset: Dataset, out: Path, split: str, requests: list[dict[str, Any]], seen: np.ndarray, settings: Settings
) -> list[dict[str, Any]]:
    def samples(part: list[dict[str, Any]], images: list[int]) -> Iterator[dict[str, Any]]:
        for item in images:
            yield _image_member(dataset, item, "i")
        for row in part:
            named = {**row, "seen": [int(seen[item]) for item in row["page"]]}
            yield {"__key__": f"r{row['request']:012d}", "json": _json(named)}

    described = []
    for number, (category, part) in enumerate(track(list(_chunks(requests, settings)), f"{split} shards")):
        images = sorted({item for row in part for item in row["history"] + row["page"]})
        file = _write_tar(out / f"requests-{split}-{number:05d}.tar", samples(part, images))
        described.append({**file, "requests": len(part), "images": len(images), "category": category})
    return described


def write_shards(settings: Settings) -> dict[str, Any]:
    """Write the shards of a dataset folder and return what ``index.json`` says.

    Requests with no earlier click, or with no pictured slot, cannot be reconstructed: they are counted and left out.

    Raises
    ------
    UserError
        If no training request is left, or ``out`` exists.
    """
    dataset = open_dataset(settings.dataset)
    requests = list(_with_history(page_requests(dataset), dataset, settings.history))
    usable = [row for row in requests if row["history"] and row["page"]]
    training = [row for row in usable if row["split"] == "train"]
    if not training:
        raise UserError(
            f"{settings.dataset}: none of {len(requests)} page views has both a picture and an earlier click of its "
            "user in the training time range; a longer log or more pictures are needed"
        )
    seen = np.zeros(len(dataset.items), dtype=bool)
    seen[[item for row in training for item in row["history"] + row["page"]]] = True
    with whole_folder(settings.out) as out:
        described = {
            split: _write_requests(
                dataset, out, split, [row for row in usable if row["split"] == split], seen, settings
            )
            for split in SPLITS
        }
        items = _write_items(dataset, out, settings.items_per_shard)
        index = {
            "format_version": FORMAT_VERSION,
            "dataset": settings.dataset,
            "dataset_fingerprint": dataset.info["fingerprint"],
            "history": settings.history,
            "slots": max(len(row["page"]) for row in usable),
            "left_out_requests": len(requests) - len(usable),
            "items": items,
            "requests": described,
        }
        write_json(out / "index.json", index)
    return index


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    index = write_shards(settings)
    say = Console().print
    for split in SPLITS:
        shards = index["requests"][split]
        images, size = sum(s["images"] for s in shards), sum(s["bytes"] for s in shards)
        requests = sum(s["requests"] for s in shards)
        say(f"{split:5}: {requests:,} requests, {images:,} images, {len(shards)} shards, {size / 2**20:,.1f} MiB")
    say(f"catalogue: {sum(s['items'] for s in index['items']):,} images in {len(index['items'])} shards")
    if index["left_out_requests"]:
        say(f"left out: {index['left_out_requests']:,} page views without an earlier click or a picture")
    say(f"next: accelerate launch pretrain/train.py --data {settings.out} --out runs/my-run")


if __name__ == "__main__":
    run_command(main)
