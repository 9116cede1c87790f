"""A log with vectors and no pictures, in the form of Taobao-MM, from the log to the report: seconds and memory a stage.

    python tests/benchmarks/vectors_only.py --out results/benchmarks/vectors_only.json

An order in place of times, vectors of 128 numbers, one impression a row. Each user's taste is a direction in an eighth
of the vectors' dimensions: what a head on the vectors can find. The stages are the project's own commands, each in a
process of its own: dataset, shards without pictures, a head on the vectors by COURIER, its table, and the comparison of
IDs, the vectors and the adapted vectors in DICM with its report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from jsonargparse.typing import PositiveInt
from kills import in_child
from report import finish
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json
from data_tools.tables.table import write_table

SIZE, SEEN, PER_USER, PER_ITEM = 128, 16, 100, 50
CLICK_RATE = 0.2


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    impressions : rows of the log; a hundredth as many users, a fiftieth as many items
    steps, rows : of the training on vectors
    out : file of the figures; none by default
    """

    impressions: PositiveInt = 1_000_000
    steps: PositiveInt = 500
    rows: PositiveInt = 512
    out: str | None = None


def write_log(folder: Path, impressions: int) -> None:
    """The log, the item list and the table of vectors."""
    rng = np.random.default_rng(0)
    users, items = max(20, impressions // PER_USER), max(100, impressions // PER_ITEM)
    vectors = rng.standard_normal((items, SIZE), dtype=np.float32)
    tastes = rng.standard_normal((users, SEEN), dtype=np.float32)
    user, item = rng.integers(0, users, impressions), rng.integers(0, items, impressions)
    liking = np.einsum("ij,ij->i", tastes[user], vectors[item, :SEEN]) / SEEN**0.5
    click = (liking + rng.logistic(size=impressions) / 2 > np.quantile(liking, 1 - CLICK_RATE)).astype(np.int8)
    log = {"user_id": user, "item_id": item, "timestamp": np.arange(impressions), "click": click}
    pl.DataFrame(log).write_parquet(folder / "log.parquet")
    category = rng.integers(0, 50, items)
    pl.DataFrame({"item_id": np.arange(items), "category": category}).write_parquet(folder / "items.parquet")
    write_table(folder / "vectors", list(range(items)), vectors, {})


def comparison(folder: Path) -> dict[str, Any]:
    """IDs, the vectors and the adapted vectors, one seed each."""
    table = str(folder / "vectors")
    return {
        "dataset": str(folder / "dataset"),
        "data": str(folder / "shards"),
        "sources": {"ids": {}, "vectors": {"table": table}, "adapted": {"table": str(folder / "adapted")}},
        "main": "adapted",
        "forms": {"simtier": {"form": "simtier", "centre": True}},
        "ctr_seeds": [0],
        "cache": str(folder / "cells"),
        "pictures": False,
        "training": {"data": {"history": 50}, "optim": {"batch_size": 1024}},
    }


def stages(settings: Settings, folder: Path) -> dict[str, list[str]]:
    """Name of each stage -> its command."""
    log, dataset, shards, run = (str(folder / name) for name in ("log.parquet", "dataset", "shards", "run"))
    head = f"--encoder.family table --encoder.name {folder}/vectors --encoder.dimensions 64 --optim.lr 1e-3"
    train = f"{head} --optim.precision fp32 --optim.steps {settings.steps} --batch.rows {settings.rows}"
    config = folder / "compare.yaml"
    config.write_text(yaml.safe_dump(comparison(folder)), encoding="utf-8")
    commands = {
        "dataset": f"data_tools.prepare --impressions {log} --items {folder}/items.parquet --time_unit order",
        "shards": f"data_tools.shards --dataset {dataset} --pictures none",
        "run": f"pretrain.train --data {shards} {train}",
        "adapted": f"pretrain.export --run {run} --data {shards}",
        "report": f"downstream.compare --config {config}",
    }
    return {name: [*command.split(), "--out", str(folder / name)] for name, command in commands.items()}


def measured(command: list[str]) -> dict[str, float]:
    """Seconds, processor seconds and peak MiB of a command; its loader processes' memory is their own."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise UserError(f"python -m {' '.join(command)} failed: {said.read().decode()[-500:]}")
    processor = used.ru_utime + used.ru_stime
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": processor,
        "peak_mib": used.ru_maxrss / 1024,
    }


def main() -> None:
    settings, found = parse_settings(Settings, __doc__), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_child(lambda: write_log(folder, settings.impressions))  # a child's peak begins at its parent's memory
        for name, command in stages(settings, folder).items():
            found[name] = measured(command)
            Console().print(name, {key: round(value) for key, value in found[name].items()}, highlight=False)
        page_auc = read_json(folder / "run" / "summary.json")["page_auc"]["warm"]
    finish(settings, {"stages": found, "page_auc": page_auc})


if __name__ == "__main__":
    run_command(main)
