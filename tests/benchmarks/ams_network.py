"""Step time of the three strategies where the network is slow: each process in a network namespace of its own.

    python tests/benchmarks/ams_network.py --out results/ams/network.json

needs root and the programs ip and tc of Linux. The namespaces (named vi-PID-...) hang on a bridge in a namespace of its
own, so no device of this machine is touched; each process may send and receive at the given rate. All is removed at the
end. Processes are pinned to the cores in turn: where there are more processes than cores, they share them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from report import Ratio, finish
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from downstream.ams.feature_store import open_store
from downstream.ams.paper.measure import measure
from downstream.ams.paper.workload import Workload
from downstream.settings import ServerSettings

CASES = {
    "AMS": ServerSettings("ams", shard_ids=True, verify=False),
    "AMS, bfloat16": ServerSettings("ams", wire="bfloat16", shard_ids=True, verify=False),
    "server": ServerSettings("server", shard_ids=True, verify=False),
    "server, bfloat16": ServerSettings("server", wire="bfloat16", shard_ids=True, verify=False),
    "worker": ServerSettings("worker", shard_ids=True, verify=False),
}
LIMIT = 300  # seconds for one group of processes


@dataclass(frozen=True)
class Settings:
    """The measurement.

    Attributes
    ----------
    processes : sizes of the groups
    rates : of each process's link, both ways, as tc writes them
    steps : measured, after two to warm up
    work : a process's part of a batch
    out : JSON file of the figures; none where it is not given
    """

    processes: tuple[int, ...] = (2, 4)
    rates: tuple[str, ...] = ("1gbit", "100mbit")
    steps: int = 5
    work: Workload = field(default_factory=Workload)
    out: str | None = None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip()}; root, ip and tc are needed")


@contextlib.contextmanager
def namespaces(count: int, rate: str) -> Iterator[list[str]]:
    """Names of that many namespaces, linked at a rate; number k has the address 10.77.0.(k+1) on the device "wire"."""
    hub, *names = names_of_all = [f"vi-{os.getpid()}-{end}" for end in ("hub", *range(count))]
    made = []
    try:
        for name in names_of_all:
            _run("ip", "netns", "add", name)
            made.append(name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            port = f"port{number}"
            _run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "wire", "netns", name)
            _run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "wire")
            _run("ip", "-n", name, "link", "set", "wire", "up")
            for space, device in ((name, "wire"), (hub, port)):
                limit = ("tbf", "rate", rate, "burst", "256kb", "limit", "64mb")  # long enough to drop nothing
                _run("tc", "-n", space, "qdisc", "add", "dev", device, "root", *limit)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def sent_bytes() -> int:
    """That this process's namespace has sent over its link."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("wire:"))


def worker(rank: int, processes: int, folder: Path, settings: Settings) -> None:
    """One process: all cases, written by the first."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "wire"
    dist.init_process_group(
        "gloo",
        init_method="tcp://10.77.0.1:29500",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=LIMIT),
    )
    store, found = open_store(folder / "store"), {}
    for name, case in CASES.items():
        found[name] = measure(settings.work, store, case, settings.steps, meter=sent_bytes)
    if rank == 0:
        write_json(folder / "found.json", found)
    dist.destroy_process_group()


def group(processes: int, rate: str, folder: Path, program: list[str], job: str) -> dict[str, dict]:
    """What a group of processes linked at a rate leaves in ``folder``/found.json.

    Each runs ``program`` with the arguments "worker", its rank, their number, ``folder`` and ``job``.
    """
    with namespaces(processes, rate) as names:
        running = []
        try:
            for rank, name in enumerate(names):
                core = str(rank % os.cpu_count())
                own = [sys.executable, *program, "worker", str(rank), str(processes), str(folder), job]
                running.append(subprocess.Popen(["ip", "netns", "exec", name, "taskset", "-c", core, *own]))
            for process in running:
                if process.wait(LIMIT):
                    raise UserError(f"a process of {processes} at {rate} failed")
        finally:
            for process in running:
                process.kill()
                process.wait()
    return json.loads((folder / "found.json").read_text())


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed then too
    console, found, ratios = Console(width=120), [], []
    printed = Table("processes", "rate", "case", "fastest step (s)", "sent a step (MB)", "counted (MB)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings.work.make_store(folder / "store")
        for processes in settings.processes:
            for rate in settings.rates:
                cases = group(processes, rate, folder, [__file__], json.dumps(asdict(settings)))
                fastest = {name: min(one["seconds"]) for name, one in cases.items()}
                for name, one in cases.items():
                    counted = sum(one["images"]["bytes"].values()) + sum(one["ids"]["bytes"].values())
                    found.append({"processes": processes, "rate": rate, "case": name, "fastest": fastest[name], **one})
                    megabytes = (f"{one['metered'] / 1e6:.2f}", f"{counted / 1e6:.2f}")
                    printed.add_row(str(processes), rate, name, f"{fastest[name]:.3f}", *megabytes)
                    if not name.startswith("AMS"):
                        what = f"seconds a step, {processes} processes, {rate}"
                        ratios.append(Ratio(what, fastest["AMS"], fastest[name], name))
    console.print(printed)
    finish(settings, {"found": found}, ratios)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        rank, processes, folder, job = sys.argv[2:]
        given = json.loads(job)
        work = Workload(**{**given["work"], "hidden": tuple(given["work"]["hidden"])})
        worker(int(rank), int(processes), Path(folder), Settings(steps=given["steps"], work=work))
    else:
        run_command(main)
