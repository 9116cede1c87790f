"""Writing the shards of a dataset: jobs planned, run in as many processes as it takes, and indexed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import resumable_folder, write_json
from data_tools.dataset.schema import SPLITS, open_dataset
from data_tools.sharding.files import FORMAT_VERSION
from data_tools.sharding.jobs import finished, run_job, stop_with_parent
from data_tools.sharding.plan import Plan, make_plan

# A process takes seconds to start: worth it for this many requests and pictures.
WORTH_A_PROCESS = 50_000


@dataclass
class Settings:
    """Dataset folder to webdataset shards.

    Attributes:
        dataset: Dataset folder, as prepare writes it.
        out: Folder to write the shards to.
        history: Most recent clicks kept with a request.
        requests_per_shard: Most requests in one shard; a multiple of the batch keeps batches of one category.
        smallest_shard: Fewer requests of a category than this go into shards of mixed categories.
        by_category: Whether shards keep categories apart at all; page views that mix categories need not.
        items_per_shard: Most catalogue images in one shard.
        shard_mb: Most megabytes (10^6 bytes) of images in one shard.
        seed: Seed of the requests' order.
        workers: Processes that write; 0 takes one a core where there is enough to write. The shards are the same.
        memory: What the join of the log takes before it spills to disk.
    """

    dataset: str
    out: str
    history: int = 30
    requests_per_shard: int = 1024
    smallest_shard: int = 256
    by_category: bool = True
    items_per_shard: int = 2048
    shard_mb: float = 512
    seed: int = 0
    workers: int = 0
    memory: str = "2GB"

    def __post_init__(self) -> None:
        for name in ("history", "requests_per_shard", "items_per_shard", "shard_mb"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name} is {getattr(self, name)}; a number above 0 is expected")
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; a number of processes, or 0 for one a core, is expected")


def write_shards(settings: Settings) -> dict[str, Any]:
    """Write the shards of a dataset folder and return what ``index.json`` says.

    Requests with no earlier click, or with no pictured slot, cannot be reconstructed: they are counted and left out.

    Raises
    ------
    UserError
        If no training request is left, a picture is gone, ``out`` exists, or a writing process dies.
    """
    dataset = open_dataset(settings.dataset)
    decides = {name: value for name, value in asdict(settings).items() if name not in ("out", "workers", "memory")}
    made_with = {**decides, "fingerprint": dataset.info["fingerprint"], "format_version": FORMAT_VERSION}
    with resumable_folder(settings.out, made_with) as out:
        plan = make_plan(dataset, settings, out / "plan")
        described = _write_all(plan, dataset.folder, out, settings)
        index = _index(plan, described, settings, dataset.info["fingerprint"])
        write_json(out / "index.json", index)
        _tidy(out)
    return index


def _write_all(plan: Plan, dataset: Path, out: Path, settings: Settings) -> list[list[dict[str, Any]]]:
    """Run the jobs that are not finished; returns what they wrote, in the jobs' order."""
    jobs = plan.info["jobs"]
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
    plan: Plan, jobs: list[tuple[int, dict[str, Any]]], dataset: Path, out: Path, settings: Settings
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(number of the job, what it wrote), as they end."""
    fixed = (plan, dataset, out, settings.shard_mb * 1e6)
    workers = settings.workers or min(len(os.sched_getaffinity(0)), 1 + _size(jobs) // WORTH_A_PROCESS)
    if min(workers, len(jobs)) <= 1:
        for number, job in jobs:
            yield number, run_job(job, *fixed)
        return
    # Forked from a server of its own: the threads of polars and DuckDB in this process do not survive a fork.
    context = get_context("forkserver")
    context.set_forkserver_preload(["data_tools.sharding.jobs"])
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=stop_with_parent) as pool:
        try:
            futures = {pool.submit(run_job, job, *fixed): number for number, job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a writing process was killed, perhaps for want of memory; the same command goes on where it stopped, "
                "with fewer --workers if need be"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _index(plan: Plan, described: list[list[dict[str, Any]]], settings: Settings, fingerprint: str) -> dict[str, Any]:
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in ("items", *SPLITS)}
    for job, found in zip(plan.info["jobs"], described, strict=True):
        files[job.get("split", "items")] += found
    stored = sum(shard["image_bytes"] for split in SPLITS for shard in files[split])
    info = plan.info
    return {
        "format_version": FORMAT_VERSION,
        "dataset": settings.dataset,
        "dataset_fingerprint": fingerprint,
        "history": settings.history,
        "slots": info["slots"],
        "left_out_requests": info["left_out_requests"],
        "storage": {
            "image_bytes_in_request_shards": stored,
            "distinct_images": info["distinct_images"],
            "distinct_image_bytes": info["distinct_image_bytes"],
            "overhead": stored / info["distinct_image_bytes"],
        },
        "items": files.pop("items"),
        "requests": files,
    }


def _tidy(out: Path) -> None:
    """Remove what only a stopped job needs."""
    for file in [*(out / "plan").iterdir(), *out.glob("*.done")]:
        file.unlink()
    (out / "plan").rmdir()
