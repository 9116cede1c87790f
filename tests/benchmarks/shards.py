"""Writing shards: images a second against webdataset's writer alone, and the peak memory as the catalogue grows.

    python tests/benchmarks/shards.py --out results/benchmarks/shards.json

A dataset is made of pictures of random bytes (6 kB on average; writing decodes nothing) and page views of eight
categories. Our side plans, writes, takes digests, waits for the disk and writes the index, in one process. The other
side copies the same bytes, picture files and request records in the same order, into as many tars with
wds.TarWriter: all that it need not do (join, choose, count) was done before its clock starts. Then each size of dataset
is written by a process of its own, whose peak memory is what the system reports of it. The layout "catalogue", which
holds each picture once, is written beside: its bytes and seconds against those of the self-contained shards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import webdataset as wds
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.dataset.schema import SCHEMA_VERSION, open_dataset
from data_tools.sharding.files import encode_json, files_of, read_shard
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from pretrain.data.collate import items_of
from pretrain.data.stream import loader
from pretrain.settings import Batch

CATEGORIES, SLOTS = 8, 6
FIRST_BATCH = 5.0  # seconds
TARGET_SPEED, TARGET_GROWTH = 0.8, 1.1


@dataclass
class Settings:
    """Benchmark of writing shards.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    items : int
        Pictures of the small dataset.
    requests : int
        Its page views.
    times : int
        How many times that the large one has.
    repeats : int
        Times that each side writes the large one; the fastest counts.
    scratch : str or null
        Folder to work in; null takes a temporary one.
    """

    out: str | None = None
    items: int = 2500
    requests: int = 10_000
    times: int = 4
    repeats: int = 3
    scratch: str | None = None


def make_dataset(folder: Path, items: int, requests: int, size: float = 6000) -> Path:
    """A dataset folder of random bytes for pictures, ``size`` on average, and a random log: 50 page views a user."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for item, length in enumerate((size * rng.lognormal(-0.125, 0.5, items)).astype(int)):
        (folder / f"images/{item}.jpg").write_bytes(rng.bytes(length))
    category = rng.integers(CATEGORIES, size=items)
    by_category = [np.flatnonzero(category == one) for one in range(CATEGORIES)]
    names = [f"p{item}" for item in range(items)]
    catalogue = {"item": np.arange(items, dtype=np.int32), "item_id": names, "title": [f"thing {n}" for n in names]}
    images = [f"images/{item}.jpg" for item in range(items)]
    frame = pl.DataFrame({**catalogue, "image": images, "category": [f"c{c}" for c in category], "first_seen": 0})
    frame.write_parquet(folder / "items.parquet")

    users = max(requests // 50, 1)
    user = np.repeat(rng.integers(users, size=requests), SLOTS).astype(np.int32)
    item = np.concatenate([rng.choice(by_category[one], SLOTS) for one in rng.integers(CATEGORIES, size=requests)])
    request = np.repeat(np.arange(requests), SLOTS)
    split = np.repeat(np.where(np.arange(requests) < 0.8 * requests, "train", "test"), SLOTS)
    log = pl.DataFrame(
        {"user": user, "item": item.astype(np.int32), "timestamp": request, "request": request, "split": split}
    )
    log = log.with_columns(click=pl.Series((rng.random(len(log)) < 0.3).astype(np.int8)))
    clicked = log.filter(pl.col("click") == 1)
    per_user = pl.DataFrame({"user": np.arange(users, dtype=np.int32)}).join(
        clicked.group_by("user", maintain_order=True).agg(items="item", timestamps="timestamp"), on="user", how="left"
    )
    empty = {"items": pl.lit([], pl.List(pl.Int32)), "timestamps": pl.lit([], pl.List(pl.Int64))}
    per_user = per_user.with_columns(**{name: pl.col(name).fill_null(value) for name, value in empty.items()})
    ids = {"user_id": pl.col("user").cast(pl.String)}
    per_user.with_columns(**ids).write_parquet(folder / "clicks.parquet")
    page = log.group_by("request", maintain_order=True).agg(pl.col("user").first(), clicks=pl.col("click").sum())
    before = page.select("request", clicks_before=(pl.col("clicks").cum_sum() - pl.col("clicks")).over("user"))
    log = log.join(before.with_columns(pl.col("clicks_before").cast(pl.Int32)), on="request", maintain_order="left")
    log.with_columns(**ids, item_id=pl.Series(names).gather(log["item"])).write_parquet(folder / "impressions.parquet")
    write_json(folder / "dataset.json", {"schema_version": SCHEMA_VERSION, "fingerprint": f"{items}-{requests}"})
    return folder


def now() -> np.ndarray:
    """Seconds on the wall and of this process's processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(dataset: Path, out: Path, workers: int, layout: str = "streaming") -> tuple[dict[str, Any], np.ndarray]:
    """The index and the seconds of one writing."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    start = now()
    index = write_shards(Shards(dataset=str(dataset), out=str(out), workers=workers, layout=layout))
    return index, now() - start


def theirs(dataset: Path, shards: Path, index: dict[str, Any], out: Path) -> np.ndarray:
    """Seconds of copying the same pictures and records with webdataset's writer."""
    paths = open_dataset(dataset).items["image"].to_list()
    seconds = np.zeros(2)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()
    for shard in files_of(index):
        images, records = read_shard(shards / shard["file"])
        order = list(images)
        encoded = [encode_json(record) for record in records]
        del images
        start = now()
        with wds.TarWriter(str(out / shard["file"]), encoder=False, mtime=0) as tar:
            if "items" in shard:
                for item, record in zip(order, encoded, strict=True):
                    tar.write({"__key__": f"{item:09d}", "jpg": (dataset / paths[item]).read_bytes(), "json": record})
            else:
                for item in order:
                    tar.write({"__key__": f"i{item:09d}", "jpg": (dataset / paths[item]).read_bytes()})
                for record, data in zip(records, encoded, strict=True):
                    tar.write({"__key__": f"r{record['request']:012d}", "json": data})
        seconds += now() - start
    written = {file.name: file.stat().st_size for file in out.iterdir()}
    if written != {shard["file"]: shard["bytes"] for shard in files_of(index)}:
        raise UserError("the two sides wrote other bytes")
    return seconds


# What the system says of a child counts this process's memory at the fork: the child reads its own high-water mark.
CHILD = """
import runpy, sys
from data_tools.common.system import peak_memory
try:
    runpy.run_module("data_tools.shards", run_name="__main__")
finally:
    print(peak_memory()["process"], file=sys.stderr)
"""


def peak_of_command(*arguments: str) -> float:
    """Megabytes that the command needs at its peak."""
    command = [sys.executable, "-c", CHILD, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"data_tools.shards {' '.join(arguments)} failed:\n{done.stderr[-800:]}")
    return float(done.stderr.split()[-1]) * 2**20 / 1e6


def writing_memory(dataset: Path, out: Path) -> float:
    """Megabytes at the peak of writing a dataset's shards in one process."""
    shutil.rmtree(out, ignore_errors=True)
    return peak_of_command("--dataset", str(dataset), "--out", str(out), "--workers", "1")


def measure(settings: Settings, scratch: Path) -> dict[str, Any]:
    small = make_dataset(scratch / "small", settings.items, settings.requests)
    large = make_dataset(scratch / "large", settings.times * settings.items, settings.times * settings.requests)
    sides: dict[str, list[np.ndarray]] = {
        name: [] for name in ("ours", "webdataset", "ours, a process a core", "catalogue")
    }
    for _ in range(settings.repeats):
        index, seconds = ours(large, scratch / "shards", 1)
        sides["ours"].append(seconds)
        sides["webdataset"].append(theirs(large, scratch / "shards", index, scratch / "copied"))
        sides["ours, a process a core"].append(ours(large, scratch / "parallel", os.cpu_count())[1])
        once, seconds = ours(large, scratch / "once", 1, "catalogue")
        sides["catalogue"].append(seconds)
    images = sum(shard.get("images", shard.get("items")) for shard in files_of(index))
    megabytes = sum(shard["bytes"] for shard in files_of(index)) / 1e6
    seconds = {name: np.min(times, axis=0) for name, times in sides.items()}
    memory = {"idle": peak_of_command("--help")}
    memory |= {f"{n}x": writing_memory(path, scratch / "m") for n, path in ((1, small), (settings.times, large))}
    return {
        "images": images,
        "megabytes": megabytes,
        "storage_overhead": index["storage"]["overhead"],
        "catalogue_megabytes": sum(file["bytes"] for file in files_of(once)) / 1e6,
        "distinct_megabytes": once["storage"]["distinct_image_bytes"] / 1e6,
        "requests_megabytes": sum(f["bytes"] for split in once["requests"].values() for f in split) / 1e6,
        "first_batch_seconds": first_batch(scratch / "once"),
        "seconds": {name: [float(one[0]) for one in times] for name, times in sides.items()},
        "images_per_second": {name: float(images / value[0]) for name, value in seconds.items()},
        "images_per_processor_second": {name: float(images / value[1]) for name, value in seconds.items()},
        "items": [settings.items, settings.times * settings.items],
        "peak_megabytes": memory,
    }


def first_batch(shards: Path) -> float:
    """Seconds from opening shards to a batch's requests and its pictures' bytes (which are no pictures here)."""
    start = time.perf_counter()
    stream = loader(shards, "requests", Batch(workers=0), 64, 0).dataset
    stream.collate = lambda encoded: [encoded[0][item] for record in encoded[1] for item in items_of(record)]
    next(iter(stream))
    return time.perf_counter() - start


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        found = measure(settings, Path(scratch))
    say = Console(highlight=False, soft_wrap=True).print
    for name, rate in found["images_per_second"].items():
        say(f"{name}: {rate:,.0f} images/s, {rate / found['images'] * found['megabytes']:,.0f} MB/s")
    side, rates, memory = f"webdataset {wds.__version__}", found["images_per_second"], found["peak_megabytes"]
    by_processor = found["images_per_processor_second"]
    grown, small = memory[f"{settings.times}x"], memory["1x"]
    ratios = [
        Ratio("images a second", rates["ours"], rates["webdataset"], side, TARGET_SPEED),
        Ratio("images a processor second", by_processor["ours"], by_processor["webdataset"], side),
        Ratio("MB at the peak", grown, small, f"1/{settings.times} of the items", TARGET_GROWTH, at_most=True),
    ]
    catalogue, streaming = found["catalogue_megabytes"], found["megabytes"]
    seconds = {name: min(times) for name, times in found["seconds"].items()}
    beside_tables = catalogue - found["requests_megabytes"]
    ratios += [
        Ratio("MB, each picture once", catalogue, streaming, "self-contained shards"),
        Ratio("MB but for requests", beside_tables, found["distinct_megabytes"], "the distinct pictures"),
        Ratio("seconds, each picture once", seconds["catalogue"], seconds["ours"], "self-contained shards"),
        Ratio("seconds to the first batch", found["first_batch_seconds"], FIRST_BATCH, "wanted", 1, at_most=True),
    ]
    finish(settings, found, ratios)


if __name__ == "__main__":
    run_command(main)
