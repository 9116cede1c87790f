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
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import torch
from click_log import write_click_log
from report import Ratio, finish, heading
from rich.console import Console

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import peak_memory
from data_tools.common.scratch import scratch_array
from data_tools.tables.table import describe, write_part
from downstream import serving
from downstream.data.arrays import PIECE
from downstream.data.codes import FIRST_KNOWN
from downstream.data.ctr_data import CTRData, mask_ids
from downstream.data.tensors import tensors
from downstream.images.joined import ItemImages
from downstream.models.build import build_model
from downstream.settings import DataSettings, OptimSettings
from downstream.training.optimizer import make_optimizer
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import ModelSettings, TrainingSettings

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GROWTH, MEMORY_GIB, SCORING = 1.3, 3.0, 0.8
SAME = 10_000  # users and items of the impressions that are the same at every size
MODELS = {"din": None, "dicm": 16}  # and the size of the vectors it is given
WARM_UP = 5  # steps before the first that is timed


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


@dataclass
class Clock:
    """Seconds of the processor and on the clock since it was made."""

    processor: float = field(default_factory=time.process_time)
    wall: float = field(default_factory=time.perf_counter)

    def read(self) -> dict[str, float]:
        return {"processor": time.process_time() - self.processor, "wall": time.perf_counter() - self.wall}


def impressions(size: int, among: int, count: int) -> CTRData:
    """Data of ``size`` users and items that all have IDs, with ``count`` impressions of ``among`` of each."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(among, size=(2, count))
    click, lengths = (rng.random(count) < 0.2).astype(np.float32), rng.integers(61, size=among)
    spread = np.random.default_rng(1)
    label = np.arange(among)
    if among < size:
        label = spread.permutation(spread.choice(size, among, replace=False))
    user, item = label[drawn]
    offsets = np.zeros(size + 1, dtype=np.int64)
    offsets[label + 1] = lengths
    np.cumsum(offsets, out=offsets)
    clicked = label[rng.integers(among, size=int(offsets[-1]))].astype(np.int32)
    codes = np.arange(FIRST_KNOWN, FIRST_KNOWN + size)
    nothing = np.zeros(size, dtype=np.int64)
    sizes = {"user": FIRST_KNOWN + size, "item": FIRST_KNOWN + size, "category": FIRST_KNOWN, "words": FIRST_KNOWN}
    return CTRData(
        dataset=None,
        settings=DataSettings(history=50),
        home=Path(),
        click=click,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        clicks_before=(offsets[user + 1] - offsets[user]).astype(np.int32),
        scene=None,
        conversion=None,
        clicked=clicked,
        offsets=offsets,
        rows={"train": np.arange(count)},
        warm=np.ones(size, dtype=bool),
        user_code=codes,
        item_code=codes,
        category_code=nothing,
        words=nothing[:, None],
        sizes=sizes,
    )


def measure_steps(name: str, size: int, among: int, optimizer: str, batch_size: int, steps: int) -> dict[str, float]:
    """Median milliseconds a step."""
    if optimizer == "adam" and size >= 1_000_000:
        steps = min(steps, 20)
    data = impressions(size, among, (WARM_UP + steps) * batch_size)
    settings = TrainingSettings(data.settings, ModelSettings(name), optim=OptimSettings(id_optimizer=optimizer))
    images = None
    if width := MODELS[name]:
        vectors = scratch_array((size, width))
        vectors[:] = np.random.default_rng(2).standard_normal((1, width), dtype=np.float32)
        vectors[:, 0] = np.arange(size) % 97
        images = ItemImages(vectors, data.warm, data.warm)
    torch.manual_seed(0)
    model = build_model(data, images, settings.model, settings.image)
    adam, rng, taken = make_optimizer(model, settings), np.random.default_rng(3), []
    for rows in data.rows["train"].reshape(-1, batch_size):
        clock = Clock()
        batch = tensors(mask_ids(data.batch(rows), settings.optim.unknown_rate, rng))
        loss = model.penalised_loss(batch)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        taken.append(clock.read())
    median = {name: 1e3 * float(np.median([one[name] for one in taken[WARM_UP:]])) for name in taken[0]}
    return {**median, "distinct_items": len(batch["row"])}


def _own_memory(stop: threading.Event, peak: list[float]) -> None:
    """Watch the process's memory without pages of files, in MiB."""
    while not stop.wait(0.05):
        line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
        peak[0] = max(peak[0], int(line.split()[1]) / 1024)


def measure_table(dataset: str, table: str, out: str) -> dict[str, float]:
    """Peak memory, in MiB, of a DICM training with a table, and its seconds."""
    stop, peak, clock = threading.Event(), [0.0], Clock()
    watcher = threading.Thread(target=_own_memory, args=(stop, peak))
    watcher.start()
    try:
        settings = RunSettings(
            DataSettings(history=50),
            optim=OptimSettings(id_optimizer="sparse_adam"),
            dataset=dataset,
            table=table,
            out=out,
        )
        with progress_bar(shown=False) as progress:
            train(settings, progress)
    finally:
        stop.set()
        watcher.join()
    return {"peak_mib": peak_memory()["process"], "own_peak_mib": peak[0], **clock.read()}


def write_table(folder: Path, items: int, size: int) -> None:
    """A table of random vectors in float16, in parts."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, start in enumerate(range(0, items, 500_000)):
        ids = list(range(start, min(start + 500_000, items)))
        vectors = rng.standard_normal((len(ids), size), dtype=np.float32).astype(np.float16)
        write_part(folder / f"part-{part:05d}.parquet", ids, vectors)
    write_json(folder / "table.json", describe(items, size, "float16", folder))


def measure_scoring(run: str, log: str, out: str) -> dict[str, float]:
    """Seconds and peak memory of scoring a log."""
    scorer, clock = serving.load(run), Clock()
    scored = scorer.score(log, out)
    return {"rows": scored.scored, **clock.read(), "peak_mib": peak_memory()["process"]}


@torch.inference_mode()
def measure_forward(run: str, rows: int) -> dict[str, float]:
    """Seconds of a forward pass over batches that are made already."""
    model, data, _ = load_run(run)
    torch.set_num_threads(1)
    size = serving.ScoreSettings().batch_size
    made = [tensors(data.batch(np.arange(start, start + size))) for start in range(0, rows, size)]
    model.probabilities(made[0])
    clock = Clock()
    for batch in made:
        model.probabilities(batch)
    return {"rows": len(made) * size, **clock.read()}


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "steps": measure_steps,
    "table": measure_table,
    "scoring": measure_scoring,
    "forward": measure_forward,
}


def in_own_process(part: str, **given: Any) -> dict[str, Any]:
    """What a measurement says, beside what it was given."""
    command = [sys.executable, __file__, "--part", part, "--given", json.dumps(given)]
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


def joined(settings: Settings, folder: Path) -> dict[str, Any]:
    write_click_log(folder / "log", settings.table_impressions, 20_000, settings.table_items)
    write_table(folder / "table", settings.table_items, settings.table_size)
    places = {"dataset": str(folder / "log"), "table": str(folder / "table"), "out": str(folder / "run")}
    return {"items": settings.table_items, "size": settings.table_size, **in_own_process("table", **places)}


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
    yield in_own_process("forward", run=run.out, rows=100_000)
    for rows in settings.scored:
        rng, log = np.random.default_rng(rows), folder / "log.parquet"
        frame = {"user_id": rng.integers(users, size=rows), "item_id": rng.integers(items, size=rows)}
        # So late that no unit but seconds is possible, as in a log of today's.
        pl.DataFrame(frame | {"timestamp": 1_700_000_000 + np.arange(rows) // 10}).write_parquet(
            log, row_group_size=PIECE
        )
        (folder / "scores.parquet").unlink(missing_ok=True)
        yield in_own_process("scoring", run=run.out, log=str(log), out=str(folder / "scores.parquet"))


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


def draw(figures: dict[str, Any], path: Path) -> None:
    """Time a step over the size, and memory and speed of scoring over the rows."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in MODELS:
        for optimizer, dashes in (("sparse_adam", "-"), ("adam", ":")):
            own = [one for one in figures["steps"] if one["name"] == name and one["optimizer"] == optimizer]
            for same in (True, False):
                line = [one for one in own if (one["among"] == SAME) is same]
                if (not same and optimizer == "adam") or not line:
                    continue
                label = f"{name}, {optimizer}, {'same impressions' if same else 'spread'}"
                left.plot(
                    [one["size"] for one in line],
                    [one["processor"] for one in line],
                    dashes if same else "--",
                    marker="o",
                    label=label,
                )
    left.set(xscale="log", yscale="log", xlabel="users and items", ylabel="ms a step (processor)")
    left.legend(fontsize=7)
    rows = [one["rows"] for one in figures["scoring"][1:]]
    right.plot(rows, [one["peak_mib"] for one in figures["scoring"][1:]], marker="o")
    most = max(one["peak_mib"] for one in figures["scoring"][1:])
    right.set(xscale="log", ylim=(0, 1.2 * most), xlabel="rows scored", ylabel="peak memory, MiB")
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)


def page(figures: dict[str, Any], settings: Settings) -> str:
    """The figures as Markdown."""
    lines = heading("CTR models as catalogue, table and log grow")
    lines += ["Times are those of the processor, on one thread.", ""]
    lines += [f"## A step of {settings.batch_size} impressions, ms", ""]
    lines += ["| model | optimizer of the IDs | impressions | users and items | processor | clock | distinct items |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in figures["steps"]:
        kind = "same" if one["among"] == SAME else "spread"
        lines.append(
            f"| {one['name']} | {one['optimizer']} | {kind} | {one['size']:,} | {one['processor']:.1f} | "
            f"{one['wall']:.1f} | {one['distinct_items']:,} |"
        )
    table, (bare, *scored) = figures["table"], figures["scoring"]
    lines += ["", f"## DICM with a table of {table['items']:,} x {table['size']}", ""]
    lines += [
        f"Peak memory {table['peak_mib'] / 1024:.2f} GiB, {table['own_peak_mib'] / 1024:.2f} GiB without pages of "
        f"files; {table['processor']:.0f} s of the processor for joining, {settings.table_impressions:,} impressions, "
        "validation and test.",
        "",
        "## Scoring with DIN",
        "",
        "| | rows | rows a second of the processor | on the clock | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for label, one in [("bare forward pass", bare), *(("downstream.serving", one) for one in scored)]:
        peak = f"{one['peak_mib']:,.0f}" if "peak_mib" in one else ""
        speeds = " | ".join(f"{one['rows'] / one[name]:,.0f}" for name in ("processor", "wall"))
        lines.append(f"| {label} | {one['rows']:,} | {speeds} | {peak} |")
    return "\n".join([*lines, "", "![](ctr_growth.png)", ""])


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
        out.with_suffix(".md").write_text(page(figures, settings))
    finish(settings, figures, ratios(figures))


if __name__ == "__main__":
    run_command(main)
