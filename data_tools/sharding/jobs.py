"""Writing planned shards, one job at a time, in any process: pictures are read one by one, and no shard is held."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json, write_json
from data_tools.common.parquet import scan_parquet
from data_tools.sharding.files import encode_json, write_tar
from data_tools.sharding.plan import Plan


def stop_with_parent() -> None:
    """Leave interrupts to the parent process, and end when it has gone without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def finished(out: Path, job: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What a finished job wrote, or None where it did not finish, or what it wrote did not reach the disk whole."""
    done = out / f"{job['name']}.done"
    files = read_json(done) if done.exists() else []
    whole = all((out / file["file"]).exists() and digest([out / file["file"]]) == file["digest"] for file in files)
    return files if files and whole else None


def run_job(job: dict[str, Any], plan: Plan, dataset: Path, out: Path, most: float) -> list[dict[str, Any]]:
    """Write a job's shard, or shards where one would hold more than ``most`` bytes of pictures; describe each."""
    described = []
    write = _write_requests if job["kind"] == "requests" else _write_items
    for part, rows in enumerate(_parts(plan, job, most)):
        path = out / (f"{job['name']}-{part:03d}.tar" if part else f"{job['name']}.tar")
        described.append(write(plan, job, rows, dataset, path))
    write_json(out / f"{job['name']}.done", described, synced=False)
    return described


def _parts(plan: Plan, job: dict[str, Any], most: float) -> Iterator[list[int]]:
    """A job's page views (or items), cut before the distinct pictures of a part take more than ``most`` bytes."""
    requests = job["kind"] == "requests"
    rows = plan.order[job["start"] : job["stop"]] if requests else _pictured(plan, job)
    part: list[int] = []
    held: set[int] = set()
    size = 0
    for row in rows.tolist():
        items = set(plan.items_of(row).tolist() if requests else [row])
        more = int(plan.image_bytes[list(items - held)].sum())
        if part and size + more > most:
            yield part
            part, held, size = [], set(), 0
            more = int(plan.image_bytes[list(items)].sum())
        part.append(row)
        held |= items
        size += more
    yield part


def _pictured(plan: Plan, job: dict[str, Any]) -> np.ndarray:
    return np.flatnonzero(plan.image_bytes[job["start"] : job["stop"]]) + job["start"]


def _image_member(plan: Plan, dataset: Path, item: int, prefix: str = "") -> tuple[str, bytes]:
    path = f"{dataset}/{plan.image(item)}"
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    if len(data) != plan.image_bytes[item]:
        raise UserError(f"{path} changed while its shards were written; write them again")
    return f"{prefix}{item:09d}.{path.rpartition('.')[2]}", data


def _write_requests(plan: Plan, job: dict[str, Any], rows: list[int], dataset: Path, path: Path) -> dict[str, Any]:
    images = np.unique(np.concatenate([plan.items_of(row) for row in rows])).tolist()

    def members() -> Iterator[tuple[str, bytes]]:
        for item in images:
            yield _image_member(plan, dataset, item, "i")
        for row in rows:
            yield f"r{plan.request[row]:012d}.json", encode_json(plan.record(row, job["split"]))

    file = write_tar(path, members())
    stored = int(plan.image_bytes[images].sum())
    category = None if job["category"] is None else plan.info["categories"][job["category"]]
    return {**file, "requests": len(rows), "images": len(images), "image_bytes": stored, "category": category}


def _write_items(plan: Plan, job: dict[str, Any], rows: list[int], dataset: Path, path: Path) -> dict[str, Any]:
    items = scan_parquet(dataset / "items.parquet")
    known = items.collect_schema().names()
    columns = [name for name in ("item", "item_id", "title", "category") if name in known]
    part = items.slice(rows[0], rows[-1] + 1 - rows[0]).filter(pl.col("image").is_not_null()).select(columns)

    def members() -> Iterator[tuple[str, bytes]]:
        for row in part.collect().iter_rows(named=True):
            # Both names side by side in their order, as webdataset lays them.
            yield from sorted(
                [_image_member(plan, dataset, row["item"]), (f"{row['item']:09d}.json", encode_json(row))]
            )

    file = write_tar(path, members())
    return {**file, "items": len(rows), "image_bytes": int(plan.image_bytes[rows].sum())}
