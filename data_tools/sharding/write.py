"""Writing the shards of a dataset: jobs planned, run in as many processes as it takes, and indexed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import read_json, resumable_folder, write_json
from data_tools.common.shared_memory import check_shared_memory
from data_tools.common.stopping import stop_with_parent
from data_tools.common.storage import remove
from data_tools.dataset.schema import Dataset, open_dataset
from data_tools.sharding.append import check_held, held_of
from data_tools.sharding.files import FORMAT_VERSION, SEVERAL_PICTURES, files_of, read_index
from data_tools.sharding.index import make_index
from data_tools.sharding.jobs import Work, finished, planned_jobs, run_job
from data_tools.sharding.plan import Plan
from data_tools.sharding.planning import make_plan
from data_tools.sharding.settings import Settings

# A process takes seconds to start: worth it for this many requests and pictures.
WORTH_A_PROCESS = 50_000
# Groups of requests whose pictures are counted to estimate what self-contained shards hold.
COUNTED = 64


def write_shards(settings: Settings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write the shards of a dataset folder, or append to them, and return what ``index.json`` says.

    Requests with no earlier click, or with no pictured slot, cannot be reconstructed: they are counted and left out.

    Parameters
    ----------
    say : callable
        Is given the estimate of what self-contained shards take, before they are written.

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
        index = make_index(plan, described, settings, dataset, out)
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
        index = make_index(plan, described, settings, dataset, out, before=before, part=part)
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
    check_shared_memory("--workers 1")
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


def _tidy(out: Path) -> None:
    """Remove what only a stopped job needs."""
    for file in [*(out / "plan").iterdir(), *out.glob("*.done"), *out.glob("*.part")]:
        file.unlink()
    (out / "plan").rmdir()
