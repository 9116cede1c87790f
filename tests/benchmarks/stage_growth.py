"""Time and peak memory of every stage as the catalogue and the log grow, with fitted growth.

    python tests/benchmarks/stage_growth.py --work /tmp/growth --minutes 4 --out results/benchmarks/stage_growth.json

Two axes: "items", with the same number of impressions, and "impressions", with the same number of items. Each stage
(prepare, shards, train, export, downstream.train, score) runs at each size in a process of its own, on one core, forked
from one that has loaded the libraries: so seconds are those of the processor without imports, and peak memory, as the
system reports it, begins at that of the libraries. Training does the same number of steps at every size. What was
measured is kept in --work, so that several short runs make a long one; a finished run writes the table and the figure
beside --out.

Growth is fitted as y = a + b n by least squares on relative errors; "exponent" is the slope of log y over log n between
the two largest sizes, 1 for what is linear, 0 for what does not grow.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from kills import in_child, run_here
from report import Ratio, finish, heading

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, write_json

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FIXED = {"items": 20_000, "impressions": 1_000}  # impressions where the items grow, items where the impressions do
SIDE = 32  # pixels of the pictures
SLOTS, A_USER, CLICKS = 8, 40, 0.25  # impressions a page view and a user, and the share of clicks
ENCODER = f"--encoder.image_size {SIDE} --optim.precision fp32"
STAGES = {
    "prepare": "data_tools.prepare --impressions {w}/log.parquet --items {w}/items.parquet --images {p} "
    "--out {w}/dataset",
    "shards": "data_tools.shards --dataset {w}/dataset --out {w}/shards --workers 1",
    "train": f"pretrain.train --data {{w}}/shards --out {{w}}/run {ENCODER} --batch.rows 32 --batch.workers 0 "
    "--optim.steps 10 --optim.warmup 2 --evaluation.every 10 --evaluation.requests 200 --checkpoint_every 10",
    "export": "pretrain.export --run {w}/run --data {w}/shards --out {w}/table",
    "downstream.train": "downstream.train --dataset {w}/dataset --table {w}/table --out {w}/ctr --optim.epochs 1",
    "score": "downstream.score --run {w}/ctr --log {w}/log.parquet --out {w}/scores.parquet",
}
MADE = {"prepare": "dataset", "shards": "shards", "train": "run", "export": "table", "downstream.train": "ctr"}


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long.

    Attributes
    ----------
    work : folder for the inputs, the results and what was measured; about 3 GB
    items : sizes of the catalogue
    impressions : sizes of the log
    minutes : after which no further stage is started
    out : file of the figures; the table (.md) and the figure (.png) stand beside it
    """

    work: str
    items: list[int] = field(default_factory=lambda: [1_000, 3_000, 10_000, 30_000, 100_000])
    impressions: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000, 3_000_000])
    minutes: float = 60
    out: str | None = None


def png(pixels: np.ndarray) -> bytes:
    """A picture, uint8 (height, width, 3), as PNG; five times as fast as Pillow, which looks for the best filter."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    number = struct.Struct(">I").pack
    packed = (number(len(data)) + kind + data + number(zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def make_inputs(work: Path, pictures: Path, items: int, impressions: int) -> None:
    """A log and an item list of random rows, and as many small pictures as items, each different."""
    pl = importlib.import_module("polars")  # in a child alone
    rng = np.random.default_rng(0)
    work.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(exist_ok=True)
    for item in range(items):
        if not (path := pictures / f"{item}.png").exists():
            coarse = np.random.default_rng(item).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            path.write_bytes(png(coarse.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)))
    number = np.arange(items)
    categories = [f"c{one}" for one in number % 20]
    listed = {"item_id": number, "image": [f"{one}.png" for one in number], "category": categories}
    pl.DataFrame(listed).write_parquet(work / "items.parquet")
    views = impressions // SLOTS
    user = rng.integers(max(2, impressions // A_USER), size=views).repeat(SLOTS)
    shown = rng.integers(items, size=views * SLOTS)
    log = {
        "user_id": user,
        "item_id": shown,
        "timestamp": 1_700_000_000 + np.arange(views).repeat(SLOTS) * 30,
        "request_id": np.arange(views).repeat(SLOTS),
        "click": (rng.random(views * SLOTS) < CLICKS).astype(np.int8),
    }
    pl.DataFrame(log).unique(["request_id", "item_id"], maintain_order=True).write_parquet(work / "log.parquet")


def measure(command: list[str], said: Path) -> dict[str, float]:
    """Seconds and peak memory, in MiB, of a command in a process of its own."""
    os.environ["KILLS_SAID"] = str(said)
    started = time.perf_counter()
    if not (child := os.fork()):
        run_here(command)
    _, status, used = os.wait4(child, 0)
    if status:
        raise UserError(f"{' '.join(command)}: {said.read_text()[-800:]}")
    return {
        "processor": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - started,
        "peak_mib": used.ru_maxrss / 1024,
    }


def sizes(settings: Settings) -> Iterator[tuple[str, int, int, int]]:
    """(axis, its size, items, impressions), the smallest first."""
    yield from (("items", size, size, FIXED["items"]) for size in sorted(settings.items))
    yield from (("impressions", size, FIXED["impressions"], size) for size in sorted(settings.impressions))


def run_all(settings: Settings) -> tuple[list[dict[str, Any]], bool]:
    """What was measured, in this run and before, and whether it is all."""
    work, until = Path(settings.work).absolute(), time.monotonic() + 60 * settings.minutes
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "measured.json"
    measured = read_json(kept, list) if kept.exists() else []
    done = {(one["axis"], one["size"], one["stage"]) for one in measured}
    for axis, size, items, impressions in sizes(settings):
        folder, pictures = work / f"{axis}-{size}", work / "pictures"
        for stage, command in STAGES.items():
            if (axis, size, stage) in done:
                continue
            if time.monotonic() > until:
                return measured, False
            if not (folder / "log.parquet").exists():
                in_child(partial(make_inputs, folder, pictures, items, impressions))
            if stage in MADE:
                shutil.rmtree(folder / MADE[stage], ignore_errors=True)
            found = measure(command.format(w=folder, p=pictures).split(), work / "said.txt")
            measured.append({"axis": axis, "size": size, "stage": stage, **found})
            write_json(kept, measured)
            print(json.dumps(measured[-1]), flush=True)
    return measured, True


def line(measured: list[dict[str, Any]], axis: str, stage: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and values of a stage along an axis."""
    own = sorted((one["size"], one[what]) for one in measured if one["axis"] == axis and one["stage"] == stage)
    return np.array([size for size, _ in own], float), np.array([value for _, value in own], float)


def fitted(size: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """a and b of value = a + b size, by least squares on relative errors, neither below zero."""
    design = np.stack([np.ones_like(size), size], 1) / value[:, None]
    a, b = np.linalg.lstsq(design, np.ones_like(value), rcond=None)[0]
    if b < 0:
        return float(value.mean()), 0.0
    if a < 0:
        return 0.0, float((size / value).sum() / (size**2 / value**2).sum())
    return float(a), float(b)


def exponent(size: np.ndarray, value: np.ndarray) -> float:
    """Slope of log value over log size between the two largest sizes."""
    return float(np.diff(np.log(value[-2:]))[0] / np.diff(np.log(size[-2:]))[0])


def draw(measured: list[dict[str, Any]], path: Path) -> None:
    """Time and memory along both axes, with the fitted lines."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8))
    for row, (what, label) in enumerate((("processor", "seconds of the processor"), ("peak_mib", "peak memory, MiB"))):
        for column, axis in enumerate(FIXED):
            plot = axes[row, column]
            for stage in STAGES:
                size, value = line(measured, axis, stage, what)
                if len(size) < 2:
                    continue
                a, b = fitted(size, value)
                (drawn,) = plot.plot(size, value, "o", label=stage)
                fine = np.geomspace(size[0], size[-1], 50)
                plot.plot(fine, a + b * fine, "--", color=drawn.get_color(), linewidth=1)
            plot.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("Dots: measured. Lines: fitted a + b n.", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def page(measured: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = heading("Time and memory of every stage as catalogue and log grow")
    lines += [
        f"Items grow beside {FIXED['items']:,} impressions, impressions beside {FIXED['impressions']:,} items.",
        "",
    ]
    for axis, other in (("items", "a thousand items"), ("impressions", "a million impressions")):
        unit = 1e3 if axis == "items" else 1e6
        listed = sorted({one["size"] for one in measured if one["axis"] == axis})
        lines += [f"## {axis.capitalize()}", ""]
        for what, name in (("processor", "seconds of the processor"), ("peak_mib", "peak memory, MiB")):
            heads = " | ".join(f"{size:,}" for size in listed)
            lines += [f"| {name} | {heads} | fitted | exponent, last step |", "|---|" + "---:|" * (len(listed) + 2)]
            for stage in STAGES:
                size, value = line(measured, axis, stage, what)
                if len(size) < 2:
                    continue
                a, b = fitted(size, value)
                shown = dict(zip(size.astype(int).tolist(), value, strict=True))
                cells = " | ".join(f"{shown[one]:,.1f}" if one in shown else "" for one in listed)
                lines.append(
                    f"| {stage} | {cells} | {a:,.1f} + {b * unit:,.2f} for {other} | {exponent(size, value):.2f} |"
                )
            lines.append("")
    return "\n".join([*lines, "![](stage_growth.png)", ""])


def ratios(measured: list[dict[str, Any]]) -> Iterator[Ratio]:
    """Time and memory of the largest size against the next, over what linear growth allows."""
    for axis in FIXED:
        for stage in STAGES:
            for what in ("processor", "peak_mib"):
                size, value = line(measured, axis, stage, what)
                if len(size) > 1:
                    label = f"{what}, {stage}, {size[-1]:,.0f} {axis}"
                    allowed = f"{size[-2]:,.0f}, times the {axis}"
                    yield Ratio(label, value[-1], value[-2] * size[-1] / size[-2], allowed, 1.15, at_most=True)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    for command in STAGES.values():
        importlib.import_module(command.split()[0])
    measured, whole = run_all(settings)
    if not whole:
        print("not all is measured: run the same command again")
    if settings.out:
        out = Path(settings.out)
        draw(measured, out.with_suffix(".png"))
        out.with_suffix(".md").write_text(page(measured))
    finish(settings, {"measured": measured}, ratios(measured) if whole else ())


if __name__ == "__main__":
    run_command(main)
