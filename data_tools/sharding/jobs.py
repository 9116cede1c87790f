"""Writing planned shards, one job at a time, in any process: pictures are read one by one, and no shard is held."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json, write_json
from data_tools.common.parquet import scan_parquet
from data_tools.common.storage import contents
from data_tools.dataset.schema import Dataset
from data_tools.sharding.files import encode_json, member_size, write_tar
from data_tools.sharding.plan import Plan, ranges
from data_tools.sharding.stored import Stored
from data_tools.sharding.tables import PLACE, lists, write_groups

GROUPS_A_FILE = 256  # of requests, in one table


def planned_jobs(plan: Plan, layout: str, items_per_shard: int) -> list[dict[str, Any]]:
    """Jobs of a layout: name, kind, and the range of the plan's page views or items; those of requests have a split."""
    jobs: list[dict[str, Any]] = []
    count: dict[str, int] = {}
    for group in plan.info["groups"]:
        split = group["split"]
        last = jobs[-1] if jobs else {}
        if layout == "catalogue" and last.get("split") == split and len(last["groups"]) < GROUPS_A_FILE:
            last["groups"].append(group)
            last["stop"] = group["stop"]
            continue
        count[split] = count.get(split, -1) + 1
        job = {"kind": "requests", "name": f"requests-{split}-{count[split]:05d}", **group}
        if layout == "catalogue":
            job |= {"kind": "table", "groups": [group]}
        jobs.append(job)
    kind = "items" if layout == "streaming" else "pictures"
    for number, start in enumerate(range(0, len(plan.written), items_per_shard)):
        stop = min(start + items_per_shard, len(plan.written))
        jobs.append({"kind": kind, "name": f"items-{number:05d}", "start": start, "stop": stop})
    return jobs


def finished(out: Path, job: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What a finished job wrote, or None where it did not finish, or what it wrote did not reach the disk whole."""
    done = out / f"{job['name']}.done"
    files = read_json(done, list) if done.exists() else []
    written = [*files, *(file["part"] for file in files if "part" in file)]
    whole = all((out / file["file"]).exists() and digest([out / file["file"]]) == file["digest"] for file in written)
    return files if files and whole else None


@dataclass(frozen=True)
class Work:
    """What all jobs of a dataset share.

    Attributes
    ----------
    plan : Plan
        Of the shards.
    dataset : Dataset
        Whose pictures and items are written.
    out : pathlib.Path
        Folder of the shards.
    most : float
        Bytes of pictures in one tar.
    stored : Stored
        How pictures are stored.
    """

    plan: Plan
    dataset: Dataset
    out: Path
    most: float
    stored: Stored

    def pictures(self, items: list[int]) -> Iterator[tuple[int, bytes, str, bytes]]:
        """Items with their pictures as they are stored, the extension of those, and the bytes of the original files.

        Raises
        ------
        UserError
            If a picture has another size than when the shards were planned.
        """
        paths = [f"{self.dataset.place}/{self.plan.image(item)}" for item in items]
        for item, path, data in zip(items, paths, contents(paths), strict=True):
            if len(data) != self.plan.image_bytes[item]:
                raise UserError(f"{path} changed while its shards were written; write them again")
            yield item, *self.stored.picture(data, path), data


def run_job(job: dict[str, Any], work: Work) -> list[dict[str, Any]]:
    """Write a job's shard, or shards where one would hold more than ``work.most`` bytes of pictures; describe each."""
    if job["kind"] == "table":
        described = [_write_table(work, job)]
    else:
        described = []
        write = {"requests": _write_requests, "items": _write_items, "pictures": _write_pictures}[job["kind"]]
        for part, rows in enumerate(_parts(work.plan, job, work.most)):
            path = work.out / (f"{job['name']}-{part:03d}.tar" if part else f"{job['name']}.tar")
            described.append(write(work, job, rows, path))
    write_json(work.out / f"{job['name']}.done", described, synced=False)
    return described


def _parts(plan: Plan, job: dict[str, Any], most: float) -> Iterator[list[int]]:
    """A job's page views (or items), cut before the distinct pictures of a part take more than ``most`` bytes."""
    requests = job["kind"] == "requests"
    rows = (plan.order if requests else plan.written)[job["start"] : job["stop"]]
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


def _write_requests(work: Work, job: dict[str, Any], rows: list[int], path: Path) -> dict[str, Any]:
    plan = work.plan
    images = np.unique(np.concatenate([plan.items_of(row) for row in rows])).tolist()
    size = 0

    def members() -> Iterator[tuple[str, bytes]]:
        nonlocal size
        for item, data, extension, _ in work.pictures(images):
            size += len(data)
            yield f"i{item:09d}.{extension}", data
        for row in rows:
            yield f"r{plan.request[row]:012d}.json", encode_json(plan.record(row, job["split"]))

    file = write_tar(path, members())
    category = None if job["category"] is None else plan.info["categories"][job["category"]]
    return {**file, "requests": len(rows), "images": len(images), "image_bytes": size, "category": category}


def _items(dataset: Dataset, rows: list[int]) -> pl.DataFrame:
    """What the catalogue says of some items, by their row; rows ascend."""
    items = scan_parquet(dataset.table("items"))
    known = items.collect_schema().names()
    columns = [name for name in ("item", "item_id", "title", "category") if name in known]
    part = items.slice(rows[0], rows[-1] + 1 - rows[0]).select(columns)
    return part.filter(pl.col("item").is_in(rows)).collect()


def _write_items(work: Work, job: dict[str, Any], rows: list[int], path: Path) -> dict[str, Any]:
    size = 0

    def members() -> Iterator[tuple[str, bytes]]:
        nonlocal size
        known = _items(work.dataset, rows)
        pictures = work.pictures(known["item"].to_list())
        for row, (_, data, extension, _) in zip(known.iter_rows(named=True), pictures, strict=True):
            size += len(data)
            key = f"{row['item']:09d}"
            # Both names side by side in their order, as webdataset lays them.
            yield from sorted([(f"{key}.{extension}", data), (f"{key}.json", encode_json(row))])

    file = write_tar(path, members())
    return {**file, "items": len(rows), "image_bytes": size}


def _write_pictures(work: Work, job: dict[str, Any], rows: list[int], path: Path) -> dict[str, Any]:
    """A tar of pictures alone, and next to it their rows of the table of items, without the number of the tar."""
    plan, stored = work.plan, work.stored
    pictures = np.array(rows, np.int32)
    numbers, owners = plan.numbered(pictures), plan.owners(pictures)
    lengths, checksums, sources = [], [], []
    if stored.nothing:
        lengths = checksums = sources = [0] * len(rows)

    def members() -> Iterator[tuple[str, bytes]]:
        found = work.pictures(rows)
        for number, (_, data, extension, source) in zip(numbers.tolist(), found, strict=True):
            lengths.append(len(data))
            checksums.append(zlib.crc32(data))
            sources.append(zlib.crc32(source))
            yield f"{number:09d}.{extension}", data

    file = write_tar(path, () if stored.nothing else members())
    sizes = np.array([0 if stored.nothing else member_size(length) for length in lengths])
    place = {"tar": np.zeros(len(rows), np.int32), "offset": np.cumsum(sizes) - sizes + tarfile.BLOCKSIZE}
    place |= {"length": lengths, "crc32": checksums, "source_crc32": sources}
    columns = {name: pa.array(place[name], kind) for name, kind in PLACE.items()}
    described = pl.DataFrame({"item": owners}).join(
        _items(work.dataset, np.unique(owners).tolist()), on="item", how="left", maintain_order="left"
    )
    if plan.has_further:
        described = described.with_columns(of=pl.when(pl.Series(owners != pictures)).then("item"))
    table = described.with_columns(item=pl.Series(numbers, dtype=pl.Int32)).to_arrow()
    table = pa.table({**{name: table[name] for name in table.column_names}, **columns})
    part = write_groups(path.with_suffix(".part"), [table])
    return {**file, "items": len(rows), "image_bytes": sum(lengths), "part": part}


def _write_table(work: Work, job: dict[str, Any]) -> dict[str, Any]:
    """A job's groups of requests as one table."""
    plan = work.plan

    def tables() -> Iterator[pa.Table]:
        for group in job["groups"]:
            yield _requests(plan, plan.order[group["start"] : group["stop"]], job["split"])

    groups = [
        {
            "requests": group["stop"] - group["start"],
            "category": None if group["category"] is None else plan.info["categories"][group["category"]],
        }
        for group in job["groups"]
    ]
    return {**write_groups(work.out / f"{job['name']}.parquet", tables()), "groups": groups}


def _requests(plan: Plan, rows: np.ndarray, split: str) -> pa.Table:
    """Page views as rows of a table; the columns are those of :meth:`Plan.record`."""
    clicks = plan.history_stop[rows] - plan.history_start[rows]
    slots = plan.slot_stop[rows] - plan.slot_start[rows]
    shown = ranges(plan.slot_start[rows], plan.slot_stop[rows])
    clicked = plan.clicked[ranges(plan.history_start[rows], plan.history_stop[rows])]
    categories = pa.array(plan.info["categories"], pa.string()).take(pa.array(plan.category[rows]))
    return pa.table(
        {
            "request": pa.array(plan.request[rows]),
            "split": pa.array([split]).take(pa.array(np.zeros(len(rows), np.int32))),
            "category": categories,
            "history": lists(clicks, plan.numbered(clicked), pa.int32()),
            "fresh": pa.array(plan.fresh[rows]),
            "page": lists(slots, plan.numbered(plan.item[shown]), pa.int32()),
            "click": lists(slots, plan.click[shown], pa.int8()),
            **({"oracle": lists(slots, plan.oracle[shown], pa.float64())} if plan.has_oracle else {}),
            "seen": lists(slots, plan.seen[plan.item[shown]].astype(np.int8), pa.int8()),
        }
    )
