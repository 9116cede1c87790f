"""How long the simulated world takes, and how that grows with the log.

    python tests/benchmarks/world.py --out results/benchmarks/world.json

Each size is simulated, and it and its oracle written as a dataset, in a process of its own; users grow with the log,
the 2,000 products stay. The pictures are drawn as well; their time is listed separately: they do not grow with the log.
Wanted: a million impressions in at most 60 s, and ten times the impressions at most eleven times the seconds.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.system import peak_memory
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.make import write_oracle, write_shop
from data_tools.simulation.rendered import draw_pictures
from data_tools.simulation.settings import World

MOST_SECONDS = 60
MOST_GROWTH = 1.1  # per impression, at ten times the impressions


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    requests : page views of each size; six impressions each
    scratch : folder for the datasets, removed again
    out : file of the figures; none by default
    """

    requests: list[int] = field(default_factory=lambda: [16_800, 168_000, 1_680_000])
    scratch: str | None = None
    out: str | None = None


def make(requests: int, scratch: str | None) -> dict[str, float]:
    """Seconds of each part and peak memory of this process."""
    world = World(requests=requests, users=requests // 20)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        marks = [time.perf_counter()]
        catalogue, log = simulate(world)
        marks.append(time.perf_counter())
        (drawn := Path(folder, "pictures")).mkdir()
        draw_pictures(world, catalogue, drawn)
        marks.append(time.perf_counter())
        write_shop(world, catalogue, log, Path(folder))
        marks.append(time.perf_counter())
        write_oracle(Path(folder, "dataset"), log)
        marks.append(time.perf_counter())
    simulated, drawing, written, ended = (after - before for before, after in pairwise(marks))
    return {
        "requests": requests,
        "impressions": len(log),
        "simulate_seconds": simulated,
        "dataset_seconds": written - drawing,
        "oracle_seconds": ended,
        "seconds": simulated + written - drawing + ended,
        "drawing_seconds": drawing,
        "peak_gib": peak_memory()["process"] / 1024,
    }


def ratios(found: list[dict[str, float]]) -> list[Ratio]:
    """Seconds a million impressions of the largest log, against the limit and against the next smaller log."""
    rates = {f"{one['impressions']:,} impressions": 1e6 * one["seconds"] / one["impressions"] for one in found}
    *smaller, (size, largest) = rates.items()
    what = f"seconds a million impressions, {size}"
    return [
        Ratio(what, largest, MOST_SECONDS, "the limit", wanted=1, at_most=True),
        *(Ratio(what, largest, rate, fewer, wanted=MOST_GROWTH, at_most=True) for fewer, rate in smaller[-1:]),
    ]


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    console, found = Console(), []
    for requests in settings.requests:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(make, requests, settings.scratch).result())
        one = found[-1]
        console.print(
            f"{one['impressions']:,} impressions: {one['seconds']:.1f} s (simulated in {one['simulate_seconds']:.1f}, "
            f"written in {one['dataset_seconds']:.1f}; drawing {one['drawing_seconds']:.1f} aside), peak "
            f"{one['peak_gib']:.1f} GiB"
        )
    finish(settings, {"found": found}, ratios(found))


if __name__ == "__main__":
    run_command(main)
