"""Steps of the workload, timed, with every byte counted: what the table and the benchmarks print."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from downstream.ams.averaging import exclude_from_ddp
from downstream.ams.feature_store import FeatureStore, open_store
from downstream.ams.ids import is_sharded
from downstream.ams.paper.workload import Workload, build
from downstream.ams.traffic import summary
from downstream.settings import ServerSettings

WARM_UP = 2


def measure(
    work: Workload,
    store: FeatureStore,
    settings: ServerSettings,
    *,
    steps: int,
    row_of_item: np.ndarray | None = None,
    meter: Callable[[], int] = lambda: 0,
) -> dict:
    """A few steps of training with Adam, in every process of a group.

    Parameters
    ----------
    work : Workload
        What a process has in a batch.
    store : FeatureStore
        The raw features.
    settings : ServerSettings
        Of the image server.
    steps : int
        Measured, after two to warm up.
    row_of_item : numpy.ndarray
        The store's row of each item; by default they are in the same order.
    meter : callable
        Reads how many bytes this process's network device has sent, to check the counts.

    Returns
    -------
    dict
        ``seconds`` of each step (of the slowest process); ``images`` and ``ids``, bytes and work a step (see
        :func:`downstream.ams.traffic.summary`); ``stored``, bytes of features that each process keeps; ``metered``,
        bytes a step that ``meter`` saw leave all processes.
    """
    model = build(work, store, settings, row_of_item)
    exclude_from_ddp(model)
    wrapped = DistributedDataParallel(model) if dist.is_initialized() else model
    kinds = [[w for w in model.parameters() if is_sharded(w) is sharded] for sharded in (False, True)]
    optimizer = torch.optim.Adam([{"params": kind} for kind in kinds if kind])
    counted = [model.server.exchange.traffic] + [table.exchange.traffic for table in model.ids.values() if kinds[1]]
    batches, seconds = work.batches(model.server.exchange.rank), []
    for step in range(WARM_UP + steps):
        batch = next(batches)
        if step == WARM_UP:
            for traffic in counted:
                traffic.clear()
            before = meter()
        if dist.is_initialized():
            dist.barrier()
        begun = time.perf_counter()
        optimizer.zero_grad()
        wrapped(batch).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    metered = torch.tensor(meter() - before)
    slowest = torch.tensor(seconds[WARM_UP:], dtype=torch.float64)
    stored = torch.zeros(model.server.exchange.processes, dtype=torch.int64)
    stored[model.server.exchange.rank] = model.server.stored_bytes()
    if dist.is_initialized():
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        dist.all_reduce(stored)
        dist.all_reduce(metered)
    found = [summary(traffic.of_all(), steps) for traffic in counted]
    return {
        "seconds": slowest.tolist(),
        "images": found[0],
        "ids": found[1] if len(found) > 1 else None,
        "stored": stored.tolist(),
        "metered": int(metered) // steps,
    }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _one(rank: int, processes: int, port: int, folder: str, cases: Sequence[tuple], steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    for number, (work, settings, row_of_item) in enumerate(cases):
        figures = measure(work, open_store(f"{folder}/store"), settings, steps=steps, row_of_item=row_of_item)
        if rank == 0:
            Path(folder, f"{number}.json").write_text(json.dumps(figures), encoding="utf-8")
    dist.destroy_process_group()


def measure_together(
    cases: Sequence[tuple[Workload, ServerSettings, np.ndarray | None]], processes: int, steps: int, store: Path
) -> list[dict]:
    """:func:`measure` of each case in a group of processes on this machine, one thread each, over the loopback device.

    Parameters
    ----------
    cases : sequence of tuple
        (Workload, ServerSettings, row_of_item) each.
    processes : int
        Of the group.
    steps : int
        Measured of each case.
    store : Path
        Of :meth:`downstream.ams.paper.workload.Workload.make_store`; each process reads its own parts.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "store").symlink_to(store)
        mp.start_processes(_one, (processes, free_port(), folder, cases, steps), processes, start_method="spawn")
        found = [json.loads(Path(folder, f"{number}.json").read_text()) for number in range(len(cases))]
    return [
        {"processes": processes, "settings": asdict(settings), **figures}
        for (_, settings, _), figures in zip(cases, found, strict=True)
    ]
