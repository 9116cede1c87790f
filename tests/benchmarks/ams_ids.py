"""Three ways to look up ID embeddings in several processes: bytes on the wire and seconds a step.

    python tests/benchmarks/ams_ids.py --out results/ams/ids.json

"exchange" is ours (``downstream.ams.ids``), "RowwiseParallel" DTensor's own look-up of the same sharded table, and
"replicated" a whole table in each process whose gradient DDP all-reduces. Network as in ``ams_network.py``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ams_network
import numpy as np
import torch
import torch.distributed as dist
from report import Ratio, finish
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from downstream.ams.exchange import Exchange
from downstream.ams.ids import shard_tables
from downstream.ams.paper.measure import WARM_UP
from downstream.ams.paper.workload import Workload


@dataclass(frozen=True)
class Settings:
    """The measurement.

    Attributes
    ----------
    processes : sizes of the groups
    rate : of each process's link
    steps : measured, after two to warm up
    out : JSON file of the figures; none where it is not given
    """

    processes: tuple[int, ...] = (2, 4)
    rate: str = "1gbit"
    steps: int = 8
    out: str | None = None


WORK = Workload()


def tables(processes: int) -> dict[str, nn.Module]:
    """The same table three ways, each called with codes (n,)."""

    def fresh() -> nn.Embedding:
        torch.manual_seed(0)
        return nn.Embedding(WORK.vocabulary, WORK.size)

    ours = nn.ModuleDict({"id": fresh()})
    shard_tables(ours, Exchange())
    mesh = init_device_mesh("cpu", (processes,))
    theirs = parallelize_module(fresh(), mesh, RowwiseParallel(input_layouts=Shard(0), output_layouts=Shard(0)))
    return {"exchange": ours["id"], "RowwiseParallel": theirs, "replicated": DistributedDataParallel(fresh())}


def _local(values: Tensor) -> Tensor:
    return values.to_local() if hasattr(values, "to_local") else values


def worker(rank: int, processes: int, folder: Path, steps: int) -> None:
    """One process: all three, whose results have to be the same."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "wire"
    dist.init_process_group("gloo", init_method="tcp://10.77.0.1:29500", rank=rank, world_size=processes)
    found, results = {}, {}
    for name, table in tables(processes).items():
        batches, seconds = WORK.batches(rank), []
        for step in range(WARM_UP + steps):
            codes = next(batches)["code"]
            if step == WARM_UP:
                sent = ams_network.sent_bytes()
            dist.barrier()
            begun = time.perf_counter()
            table.zero_grad()
            values = _local(table(codes))
            (values * values).sum().backward()
            seconds.append(time.perf_counter() - begun)
        moved = torch.tensor(ams_network.sent_bytes() - sent)
        dist.all_reduce(moved)
        found[name] = {"seconds": seconds[WARM_UP:], "sent": int(moved) // steps}
        results[name] = values.detach()
    for name, values in results.items():
        if not torch.equal(values, results["replicated"]):
            raise UserError(f"{name} looks up other values")
    if rank == 0:
        write_json(folder / "found.json", found)
    dist.destroy_process_group()


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    console, found, ratios = Console(), [], []
    printed = Table(
        "processes",
        "look-up",
        "s",
        "sent a step (MB)",
    )
    with tempfile.TemporaryDirectory() as folder:
        for processes in settings.processes:
            group = ams_network.group(processes, settings.rate, Path(folder), [__file__], str(settings.steps))
            for name, one in group.items():
                seconds = float(np.median(one["seconds"]))
                found.append({"processes": processes, "look-up": name, "median": seconds, **one})
                printed.add_row(str(processes), name, f"{seconds:.4f}", f"{one['sent'] / 1e6:.2f}")
                if name != "exchange":
                    what = f"bytes sent a step, {processes} processes"
                    ratios.append(Ratio(what, group["exchange"]["sent"], one["sent"], name))
    console.print(printed)
    sizes = {"codes": WORK.codes, "vocabulary": WORK.vocabulary, "size": WORK.size}
    finish(settings, {**sizes, "found": found}, ratios)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        given = json.loads(sys.argv[5])
        worker(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), given)
    else:
        run_command(main)
