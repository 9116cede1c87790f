"""CTR models as catalogue, table and log grow: time a step, peak memory, and rows scored a second.

    python tests/benchmarks/ctr_growth.py --out results/benchmarks/ctr_growth.json

Three parts, each measurement in a process of its own, on one thread:

steps
    A training step (batch, loss, gradients, optimizer) of DIN and DICM where 10 thousand to 10 million users and items
    have IDs. "same": the same impressions at every size, of 10 thousand users and items spread over the catalogue.
    "spread": as many impressions of users and items drawn from all of it, so that a batch mentions more distinct ones.
table
    A table of 5 million vectors joined to a dataset of as many items, and a training with it: the process's peak memory
    in all, and without the pages of files, which the system takes back when it needs them.
scoring
    Logs of growing length scored by a trained DIN, beside a bare forward pass over batches that are made already.

Times are seconds of the processor (all threads of the process), which say the same on a machine that is shared; the
seconds on the clock stand beside them. The figure and the table are written beside --out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from click_log import write_click_log
from ctr_growth_measures import MEASURES, MODELS, SAME
from ctr_growth_page import draw, page
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.files import write_json
from data_tools.tables.table import describe, write_part
from downstream.data.arrays import PIECE
from downstream.settings import DataSettings, OptimSettings
from downstream.training.run import RunSettings, train
from downstream.training.settings import ModelSettings

GROWTH, MEMORY_GIB, SCORING = 1.3, 3.0, 0.8


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    sizes : users and items of the steps
    batch_size : impressions a step
    steps : steps that are timed
    adam_until : largest size at which dense Adam is timed beside the sparse optimizer; it steps through whole tables
    table_items, table_size : of the table that is joined
    table_impressions : of the log that is trained on with it
    scored : rows of the logs that are scored
    part : set by the program for its own processes
    given : set likewise, JSON of what is measured
    out : file of the figures; none by default
    """

    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000, 10_000_000])
    batch_size: int = 256
    steps: int = 100
    adam_until: int = 1_000_000
    table_items: int = 5_000_000
    table_size: int = 128
    table_impressions: int = 100_000
    scored: list[int] = field(default_factory=lambda: [100_000, 300_000, 1_000_000, 3_000_000])
    part: str | None = None
    given: str = "{}"
    out: str | None = None


def in_own_process(part: str, places: dict[str, str] | None = None, **given: Any) -> dict[str, Any]:
    """What a measurement says, with what it was given, but for the ``places`` of files, which are gone afterwards."""
    command = [sys.executable, __file__, "--part", part, "--given", json.dumps({**given, **(places or {})})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{part} {given}:\n{done.stderr[-2000:]}")
    return {**given, **json.loads(done.stdout.splitlines()[-1])}


def steps(settings: Settings) -> Iterator[dict[str, Any]]:
    shared = {"batch_size": settings.batch_size, "steps": settings.steps}
    for name in MODELS:
        for size in settings.sizes:
            for among in dict.fromkeys((SAME, size)):
                yield in_own_process("steps", name=name, size=size, among=among, optimizer="sparse_adam", **shared)
        for size in (size for size in settings.sizes if size <= settings.adam_until):
            yield in_own_process("steps", name=name, size=size, among=SAME, optimizer="adam", **shared)


def write_table(folder: Path, items: int, size: int) -> None:
    """A table of random vectors in float16, in parts."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, start in enumerate(range(0, items, 500_000)):
        ids = list(range(start, min(start + 500_000, items)))
        vectors = rng.standard_normal((len(ids), size), dtype=np.float32).astype(np.float16)
        write_part(folder / f"part-{part:05d}.parquet", ids, vectors)
    write_json(folder / "table.json", describe(items, size, "float16", folder))


def joined(settings: Settings, folder: Path) -> dict[str, Any]:
    write_click_log(folder / "log", settings.table_impressions, 20_000, settings.table_items)
    write_table(folder / "table", settings.table_items, settings.table_size)
    places = {"dataset": str(folder / "log"), "table": str(folder / "table"), "out": str(folder / "run")}
    return {"items": settings.table_items, "size": settings.table_size, **in_own_process("table", places)}


def scoring(settings: Settings, folder: Path) -> Iterator[dict[str, Any]]:
    """Of each length, the rows of the log repeated with later times; first the bare forward pass."""
    users, items, count = 50_000, 20_000, 200_000
    write_click_log(folder / "small", count, users, items)
    info = json.loads((folder / "small" / "dataset.json").read_text())
    write_json(folder / "small" / "dataset.json", info | {"time_unit": "seconds", "time_range": [1, count]})
    optim = OptimSettings(batch_size=1024, id_optimizer="sparse_adam")
    run = RunSettings(
        DataSettings(history=50),
        ModelSettings("din"),
        optim=optim,
        dataset=str(folder / "small"),
        out=str(folder / "din"),
    )
    with progress_bar(shown=False) as progress:
        train(run, progress)
    yield in_own_process("forward", {"run": run.out}, rows=100_000)
    for rows in settings.scored:
        rng, log = np.random.default_rng(rows), folder / "log.parquet"
        frame = {"user_id": rng.integers(users, size=rows), "item_id": rng.integers(items, size=rows)}
        # So late that no unit but seconds is possible, as in a log of today's.
        pl.DataFrame(frame | {"timestamp": 1_700_000_000 + np.arange(rows) // 10}).write_parquet(
            log, row_group_size=PIECE
        )
        (folder / "scores.parquet").unlink(missing_ok=True)
        yield in_own_process("scoring", {"run": run.out, "log": str(log), "out": str(folder / "scores.parquet")})


def ratios(figures: dict[str, Any]) -> Iterator[Ratio]:
    """The bars."""
    grown = [one for one in figures["steps"] if one["optimizer"] == "sparse_adam"]
    kinds = {"same": lambda one: one["among"] == SAME, "spread": lambda one: one["among"] == one["size"]}
    for name in MODELS:
        for what, of in kinds.items():
            own = sorted((one for one in grown if one["name"] == name and of(one)), key=lambda one: one["size"])
            side, wanted = f"{own[0]['size']:,} users and items", GROWTH if what == "same" else None
            label = f"ms a step of {name}, {own[-1]['size']:,}, {what}"
            yield Ratio(label, own[-1]["processor"], own[0]["processor"], side, wanted, at_most=True)
    table = figures["table"]
    what = f"GiB, joining and training with {table['items']:,} x {table['size']}"
    yield Ratio(what, table["peak_mib"] / 1024, 1.0, "1 GiB", MEMORY_GIB, at_most=True)
    bare, *scored = figures["scoring"]
    first, last = scored[0], scored[-1]
    speed, of_bare = (one["rows"] / one["processor"] for one in (last, bare))
    yield Ratio(f"rows scored a second, {last['rows']:,}", speed, of_bare, "bare forward pass", SCORING)
    side = f"{first['rows']:,} rows"
    yield Ratio(f"MiB, scoring {last['rows']:,}", last["peak_mib"], first["peak_mib"], side, 1.2, at_most=True)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if settings.part:
        print(json.dumps(MEASURES[settings.part](**json.loads(settings.given))))
        return
    say, figures = Console(highlight=False, soft_wrap=True).print, {"steps": []}
    with tempfile.TemporaryDirectory() as folder:
        for one in steps(settings):
            figures["steps"].append(one)
            say(f"{one['name']}, {one['optimizer']}, {one['among']:,} of {one['size']:,}: {one['processor']:.1f} ms")
        figures["table"] = joined(settings, Path(folder))
        say(f"table: {figures['table']}")
        figures["scoring"] = []
        for one in scoring(settings, Path(folder)):
            figures["scoring"].append(one)
            say(f"scoring: {one}")
    if settings.out:
        out = Path(settings.out)
        draw(figures, out.with_suffix(".png"))
        out.with_suffix(".md").write_text(page(figures, settings.batch_size, settings.table_impressions))
    finish(settings, figures, ratios(figures))


if __name__ == "__main__":
    run_command(main)
