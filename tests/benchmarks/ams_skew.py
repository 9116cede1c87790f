"""Popular images: what they do to the balance of the processes, and what copies of the hottest are worth.

    python tests/benchmarks/ams_skew.py --out results/ams/skew.json

Images are shown in proportion to k^-1 (Zipf). "in turn" is how a feature store deals items out; "together" is what it
avoids, the most popular ones with the first process. The balance is the busiest process's work over the mean; processes
talk over the loopback device.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from report import Ratio, finish
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import parse_settings, run_command
from downstream.ams.paper.measure import measure_together
from downstream.ams.paper.workload import Workload
from downstream.settings import ServerSettings


@dataclass(frozen=True)
class Settings:
    """The measurement.

    Attributes
    ----------
    processes : sizes of the groups
    hot : numbers of copied images
    steps : measured, after two to warm up
    work : a process's part of a batch
    out : JSON file of the figures; none where it is not given
    """

    processes: tuple[int, ...] = (2, 4)
    hot: tuple[int, ...] = (0, 200, 1000)
    steps: int = 5
    work: Workload = field(default_factory=lambda: Workload(zipf=1.0))
    out: str | None = None


def together(work: Workload, processes: int) -> np.ndarray:
    """Rows of the items, the most popular first, such that the first process owns these, the second the next, ..."""
    return np.argsort(np.arange(work.items) % work.parts % processes, kind="stable")


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    work, console, found = settings.work, Console(width=120), []
    printed = Table("processes", "placed", "hot", "embedded a step", "balance", "asked", "balance", "images (MB)", "s")
    with tempfile.TemporaryDirectory() as folder:
        store = work.make_store(Path(folder) / "store")
        for processes in settings.processes:
            placements = {"in turn": None, "together": together(work, processes)}
            plan = [(place, hot) for place in placements for hot in settings.hot]
            base = ServerSettings("ams", shard_ids=True, verify=False)
            cases = [(work, replace(base, hot=hot), placements[place]) for place, hot in plan]
            for (place, hot), one in zip(
                plan, measure_together(cases, processes, settings.steps, store.folder), strict=True
            ):
                images, seconds = one["images"], float(np.median(one["seconds"]))
                moved = sum(images["bytes"][kind] for kind in ("ids", "embeddings", "gradients")) / 1e6
                case = {"processes": processes, "placed": place, "hot": hot}
                found.append({**case, "megabytes": moved, "median": seconds, **one})
                work_done = [
                    text
                    for name in ("embedded", "asked")
                    for text in (f"{images['work'][name]:.0f}", f"{images['balance'][name]:.3f}")
                ]
                printed.add_row(str(processes), place, str(hot), *work_done, f"{moved:.3f}", f"{seconds:.3f}")
    console.print(printed)
    balance = {
        (f"{one['processes']} processes, {one['hot']} copied", one["placed"]): one["images"]["balance"]["embedded"]
        for one in found
    }
    ratios = [
        Ratio(f"busiest over mean, {case}", value, balance[case, "together"], "popular images together")
        for (case, placed), value in balance.items()
        if placed == "in turn"
    ]
    finish(settings, {"found": found}, ratios)


if __name__ == "__main__":
    run_command(main)
