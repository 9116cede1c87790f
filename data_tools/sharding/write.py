"""Writing the shards of a dataset: jobs planned, run in as many processes as it takes, and indexed."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from data_tools.common.checks import Checked, Quality, Seed, Workers
from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import read_json, resumable_folder, write_json
from data_tools.common.stopping import stop_with_parent
from data_tools.common.storage import remove
from data_tools.dataset.near_duplicates import sharing
from data_tools.dataset.schema import SPLITS, Dataset, open_dataset
from data_tools.sharding.append import check_held, fingerprint, held_of, item_tables
from data_tools.sharding.files import FORMAT_VERSION, SEVERAL_PICTURES, files_of, read_index
from data_tools.sharding.jobs import Work, finished, planned_jobs, run_job
from data_tools.sharding.plan import Plan
from data_tools.sharding.planning import make_plan
from data_tools.sharding.stored import Stored
from data_tools.sharding.tables import write_groups

# A process takes seconds to start: worth it for this many requests and pictures.
WORTH_A_PROCESS = 50_000
# Groups of requests whose pictures are counted to estimate what self-contained shards hold.
COUNTED = 64
# Settings that decide nothing of what is written.
FREE = ("out", "append", "workers", "memory")


@dataclass(frozen=True)
class Settings(Checked):
    """Dataset folder to shards.

    Attributes
    ----------
    dataset : str
        Dataset folder, as prepare writes it, or its URL.
    out : str
        Folder or URL to write the shards to.
    layout : str
        catalogue: each picture once, and tables of requests that refer to them by place, for a disk that reads at
        random; streaming: self-contained tars, each with every picture that its requests mention, for storage that is
        read from front to back.
    append : bool
        Add the new items and days of the dataset, which is one of the same log continued, to the shards in out.
    history : int
        Most recent clicks kept with a request.
    requests_per_shard : int
        Most requests in one group (of the layout streaming: in one shard); a multiple of the batch keeps batches of one
        category.
    smallest_shard : int
        Fewer requests of a category than this go into groups of mixed categories.
    by_category : bool
        Whether groups keep categories apart; false suits page views that mix categories.
    items_per_shard : int
        Most catalogue images in one tar.
    shard_mb : float
        Most megabytes (10^6 bytes) of images in one tar.
    side : int
        Pixels of the shorter side that larger pictures are resized to once, here; 0 stores pictures as they are.
    pictures : str
        encoded: as JPEG of that side (smaller ones as they are); decoded: all as uint8 arrays, which take more bytes
        and no decoding; none: no pictures, and every item counts, for encoders that take vectors.
    quality : int
        JPEG quality of resized pictures, 1 to 95.
    seed : int
        Seed of the requests' order.
    workers : int
        Processes that write; 0 takes one a core where there is enough to write. The shards are the same.
    memory : str
        What the join of the log takes before it spills to disk.
    """

    dataset: str
    out: str
    layout: Literal["catalogue", "streaming"] = "catalogue"
    append: bool = False
    history: PositiveInt = 30
    requests_per_shard: PositiveInt = 1024
    smallest_shard: NonNegativeInt = 256
    by_category: bool = True
    items_per_shard: PositiveInt = 2048
    shard_mb: PositiveFloat = 512
    side: NonNegativeInt = 0
    pictures: Literal["encoded", "decoded", "none"] = "encoded"
    quality: Quality = 90
    seed: Seed = 0
    workers: Workers = 0
    memory: str = "2GB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pictures == "decoded" and not self.side:
            raise UserError("--pictures decoded needs --side: decoded whole, pictures would take far more than they do")
        if self.pictures == "none" and (self.side or self.layout == "streaming"):
            raise UserError("--pictures none goes with --layout catalogue and without --side: no picture is stored")
        if self.append and self.layout == "streaming":
            raise UserError("--append needs --layout catalogue; self-contained shards must be rewritten in full")

    @property
    def stored(self) -> Stored:
        """How pictures are stored."""
        return Stored(self.side, self.pictures == "decoded", self.quality, self.pictures == "none")

    def decides(self) -> dict[str, Any]:
        """The settings that what is written depends on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


def write_shards(settings: Settings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write the shards of a dataset folder, or append to them, and return what ``index.json`` says.

    Requests with no earlier click, or with no pictured slot, cannot be reconstructed: they are counted and left out.

    Parameters
    ----------
    say : is given the estimate of what self-contained shards take, before they are written

    Raises
    ------
    UserError
        If no training request is left, a picture is gone, ``out`` exists (or, to append, holds something else), or a
        writing process dies.
    """
    dataset = open_dataset(settings.dataset)
    made_with = {**settings.decides(), "fingerprint": dataset.info["fingerprint"], "format_version": FORMAT_VERSION}
    if settings.append:
        return _append(dataset, settings, made_with)
    with resumable_folder(settings.out, made_with) as out:
        if (out / "index.json").exists():  # all but the upload was done before
            return read_json(out / "index.json")
        plan = make_plan(dataset, settings, out / "plan")
        if settings.layout == "streaming":
            say(_estimate(plan))
        described = _write_all(plan, dataset, out, settings)
        index = _index(plan, described, settings, dataset, out)
        write_json(out / "index.json", index)
        _tidy(out)
    return index


def _append(dataset: Dataset, settings: Settings, made_with: dict[str, Any]) -> dict[str, Any]:
    folder = Path(settings.out)
    before = read_index(folder)
    _check_same(folder, before, settings)
    if before["dataset_fingerprint"] == dataset.info["fingerprint"]:
        return before
    if before["format_version"] == SEVERAL_PICTURES or dataset.info.get("counts", {}).get("pictures"):
        raise UserError(
            f"items of {settings.dataset}, or of {folder}, have several pictures, which cannot be appended: write new "
            "shards"
        )
    part = f"{len(before['writings']):04d}"
    remove(folder / part)  # of an appending that stopped just before its index
    with resumable_folder(folder / part, made_with) as out:
        plan = make_plan(dataset, settings, out / "plan", held_of(folder, before, dataset))
        try:
            check_held(folder, before, plan.info["held"], dataset)
        except UserError:
            shutil.rmtree(out / "plan")
            raise
        described = _write_all(plan, dataset, out, settings)
        index = _index(plan, described, settings, dataset, out, before, part)
        _tidy(out)
    write_json(folder / "index.json", index)
    kept = {file["file"] for file in files_of(index)}
    for file in files_of(before):
        if file["file"] not in kept:
            remove(folder / file["file"])
    return index


def _check_same(folder: Path, before: dict[str, Any], settings: Settings) -> None:
    """Refuse to append to shards of another kind."""
    if before.get("layout") != "catalogue":
        raise UserError(f"{folder} holds self-contained shards, which cannot be appended to; write new ones")
    now = settings.decides()
    for name, value in before["settings"].items():
        if name != "dataset" and now[name] != value:
            raise UserError(f"{folder} was written with --{name} {value}, not {now[name]}; append with the same")


def _estimate(plan: Plan) -> str:
    """What self-contained shards will hold, from some of their groups."""
    groups = plan.info["groups"]
    counted = [groups[k] for k in np.linspace(0, len(groups) - 1, min(COUNTED, len(groups)), dtype=int)]
    size = 0
    for group in counted:
        rows = plan.order[group["start"] : group["stop"]]
        size += int(plan.image_bytes[np.unique(np.concatenate([plan.items_of(row) for row in rows]))].sum())
    size = size * _size(enumerate(groups)) / _size(enumerate(counted))
    distinct = plan.info["distinct_image_bytes"]
    return (
        f"self-contained shards will hold about {size / 1e6:,.1f} MB of pictures, {size / distinct:.1f} times the "
        f"{distinct / 1e6:,.1f} MB of the {plan.info['distinct_images']:,} distinct ones; --layout catalogue holds "
        "each once"
    )


def _write_all(plan: Plan, dataset: Dataset, out: Path, settings: Settings) -> list[list[dict[str, Any]]]:
    """Run the jobs that are not finished; returns what they wrote, in the jobs' order."""
    jobs = planned_jobs(plan, settings.layout, settings.items_per_shard)
    described = [finished(out, job) for job in jobs]
    to_do = [(number, jobs[number]) for number, found in enumerate(described) if found is None]
    total = _size(enumerate(jobs))
    with progress_bar() as progress:
        bar = progress.add_task("writing shards", total=total, completed=total - _size(to_do))
        for number, files in _run(plan, to_do, dataset, out, settings):
            described[number] = files
            progress.advance(bar, _size([(number, jobs[number])]))
    return described


def _size(jobs: Iterable[tuple[int, dict[str, Any]]]) -> int:
    """Requests and pictures of some jobs."""
    return sum(job["stop"] - job["start"] for _, job in jobs)


def _run(
    plan: Plan, jobs: list[tuple[int, dict[str, Any]]], dataset: Dataset, out: Path, settings: Settings
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(number of the job, what it wrote), as they end."""
    dataset = Dataset(dataset.place)  # without the tables that were read, since each job brings it along
    work = Work(plan, dataset, out, settings.shard_mb * 1e6, settings.stored)
    workers = settings.workers or min(len(os.sched_getaffinity(0)), 1 + _size(jobs) // WORTH_A_PROCESS)
    if min(workers, len(jobs)) <= 1:
        for number, job in jobs:
            yield number, run_job(job, work)
        return
    # Forked from a server of its own: the threads of polars and DuckDB in this process do not survive a fork.
    context = get_context("forkserver")
    context.set_forkserver_preload(["data_tools.sharding.jobs"])
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=stop_with_parent) as pool:
        try:
            futures = {pool.submit(run_job, job, work): number for number, job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a writing process was killed, perhaps for lack of memory; the same command continues where it "
                "stopped, with fewer --workers if need be"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _index(
    plan: Plan,
    described: list[list[dict[str, Any]]],
    settings: Settings,
    dataset: Dataset,
    out: Path,
    before: dict[str, Any] | None = None,
    part: str = "",
) -> dict[str, Any]:
    """What ``index.json`` says; ``part`` is the folder of what is appended to the shards ``before``."""
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in ("items", *SPLITS)}
    for job, found in zip(planned_jobs(plan, settings.layout, settings.items_per_shard), described, strict=True):
        files[job.get("split", "items")] += found
    info = plan.info
    if part:
        for file in (file for listed in files.values() for file in listed):
            file["file"] = f"{part}/{file['file']}"
        files["train"] = before["requests"]["train"] + files["train"]
    index = {
        "format_version": SEVERAL_PICTURES if plan.has_further else FORMAT_VERSION,
        "layout": settings.layout,
        "dataset": settings.dataset,
        "dataset_fingerprint": dataset.info["fingerprint"],
        "history": settings.history,
        "slots": info["slots"],
        "left_out_requests": info["left_out_requests"],
        **({"left_out_pictures": info["left_out_pictures"]} if info["left_out_pictures"] else {}),
        "storage": {"distinct_images": info["distinct_images"], "distinct_image_bytes": info["distinct_image_bytes"]},
        "settings": settings.decides(),
        "times": _times(dataset),
        "items": files.pop("items"),
        "requests": files,
    }
    if (near := _write_near_duplicates(plan, dataset, out)) is not None:
        index["near_duplicates"] = {**near, "file": f"{part}/{near['file']}" if part else near["file"]}
    if settings.layout == "streaming":
        stored = sum(shard["image_bytes"] for split in SPLITS for shard in files[split])
        index["storage"] |= {
            "image_bytes_in_request_shards": stored,
            "overhead": stored / info["distinct_image_bytes"],
        }
        return {**index, "fingerprint": fingerprint(index)}
    _write_items_table(index, out, part, earlier=before and (Path(settings.out), before), dataset=dataset)
    index["storage"] |= {
        "picture_tar_bytes": sum(shard["bytes"] for shard in index["items"]),
        "table_bytes": sum(file["bytes"] for split in SPLITS for file in files[split]) + index["table"]["bytes"],
    }
    return {**index, **_for_appending(plan, dataset, settings, before), "fingerprint": fingerprint(index)}


def _for_appending(plan: Plan, dataset: Dataset, settings: Settings, before: dict[str, Any] | None) -> dict[str, Any]:
    """What ``index.json`` says for a later ``--append``; ``before`` is the index that this writing appends to."""
    numbers = plan.number if before else np.arange(len(plan.image_bytes))
    writing = {
        "dataset": settings.dataset,
        "fingerprint": dataset.info["fingerprint"],
        "pictures": len(plan.written),
        "requests": sum(group["stop"] - group["start"] for group in plan.info["groups"]),
    }
    return {
        "train_until": dataset.info.get("splits", {}).get("valid_start"),
        "trained": plan.info["trained"],
        "next_item": max(int(numbers.max()) + 1, before["next_item"] if before else 0),
        "writings": [*(before["writings"] if before else []), writing],
    }


def _write_near_duplicates(plan: Plan, dataset: Dataset, out: Path) -> dict[str, Any] | None:
    """Write the items whose pictures are nearly the same, by their numbers in the shards; None where there are none."""
    first = dataset.first_alike
    if first is None or not len(items := sharing(first)):
        return None
    numbers = {"item": plan.numbered(items), "first": plan.numbered(first[items])}
    table = pa.table({name: pa.array(values, pa.int32()) for name, values in numbers.items()})
    described = write_groups(out / "near_duplicates.parquet", [table])
    counts = {"items": len(items), "pictures": len(np.unique(first[items]))}
    return {**described, **counts, "seen_by_near_duplicate": plan.info["seen_by_near_duplicate"]}


def _times(dataset: Dataset) -> dict[str, int | None]:
    """When the log begins, and when its validation and test splits do."""
    splits, first = dataset.info.get("splits", {}), (dataset.info.get("time_range") or [None])[0]
    return {"first": first, **{name: splits.get(name) for name in ("valid_start", "test_start")}}


def _write_items_table(
    index: dict[str, Any],
    out: Path,
    part: str,
    *,
    earlier: tuple[Path, dict[str, Any]] | None,
    dataset: Dataset,
) -> None:
    """Join the rows that the tars' writers left, and those of earlier writings (folder, index), into one table."""
    new, index["items"] = index["items"], []
    parts = [out / Path(shard.pop("part")["file"]).name for shard in new]

    def tables() -> Iterator[pa.Table]:
        replaced = pa.chunked_array([pq.read_table(path, columns=["item"])["item"] for path in parts], pa.int32())
        kept = item_tables(*earlier, replaced, dataset) if earlier else ()
        schema = None
        for shard, rows in itertools.chain(kept, zip(new, map(pq.read_table, parts), strict=True)):
            schema = schema or rows.schema
            columns = {name: rows[name] if name in rows.column_names else [None] * len(rows) for name in schema.names}
            tar = pa.array(np.full(len(rows), len(index["items"]), np.int32))
            yield pa.table({**columns, "tar": tar}).cast(schema)
            index["items"].append(shard)

    described = write_groups(out / "items.parquet", tables())
    index["table"] = {**described, "file": f"{part}/items.parquet" if part else described["file"]}


def _tidy(out: Path) -> None:
    """Remove what only a stopped job needs."""
    for file in [*(out / "plan").iterdir(), *out.glob("*.done"), *out.glob("*.part")]:
        file.unlink()
    (out / "plan").rmdir()
