"""Each picture once, against self-contained shards: bytes, seconds and memory of a dataset in both layouts.

    python tests/benchmarks/catalogue.py --out results/benchmarks/catalogue-synthetic.json
    python tests/benchmarks/catalogue.py --dataset DATASET --out FILE

Without a dataset one is made of pictures of random bytes, with histories of 30 clicks. Each layout is written by a
process of its own, which says its peak memory. Where the self-contained shards would take more than ``most_gb``, they
are not written; their bytes are then what ``data_tools.shards`` estimates before it writes anything.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Ratio, finish
from shards import CHILD, FIRST_BATCH, first_batch, make_dataset

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json
from data_tools.sharding.files import files_of

ESTIMATE = re.compile(r"hold about ([\d,.]+) MB of pictures")
FEWER, MOST_BYTES = 20, 1.05


@dataclass
class Settings:
    """Benchmark of the two layouts.

    Attributes
    ----------
    out : str or null
        File for the figures; null only prints them.
    dataset : str or null
        Dataset folder; null makes a synthetic one.
    items : int
        Pictures of the synthetic one.
    requests : int
        Its page views.
    picture_bytes : float
        Of its pictures, on average.
    most_gb : float
        Self-contained shards that would take more are estimated alone.
    workers : int
        Processes that write.
    scratch : str or null
        Folder to work in; null takes a temporary one.
    """

    out: str | None = None
    dataset: str | None = None
    items: int = 100_000
    requests: int = 1_000_000
    picture_bytes: float = 20_000
    most_gb: float = 8.0
    workers: int = 1
    scratch: str | None = None


def write(dataset: Path, out: Path, layout: str, settings: Settings) -> dict[str, float] | None:
    """Megabytes, seconds and peak megabytes of a layout, and its estimate; no more than that where it is too large."""
    shutil.rmtree(out, ignore_errors=True)
    command = ["--dataset", str(dataset), "--out", str(out), "--layout", layout, "--workers", str(settings.workers)]
    started, estimate = time.perf_counter(), None
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout:
            if found := ESTIMATE.search(line):
                estimate = float(found[1].replace(",", ""))
                if estimate > settings.most_gb * 1000:
                    child.kill()
                    child.wait()
                    shutil.rmtree(out.parent / f".{out.name}.partial")
                    return {"estimated_megabytes": estimate}
        seconds, said = time.perf_counter() - started, child.stderr.read()
    if child.returncode:
        raise UserError(f"data_tools.shards failed:\n{said[-800:]}")
    index = read_json(out / "index.json")
    return {
        "megabytes": sum(file["bytes"] for file in files_of(index)) / 1e6,
        "distinct_megabytes": index["storage"]["distinct_image_bytes"] / 1e6,
        "requests_megabytes": sum(f["bytes"] for split in index["requests"].values() for f in split) / 1e6,
        "seconds": seconds,
        "peak_megabytes": int(said.split()[-1]) * 1024 / 1e6,
        **({} if estimate is None else {"estimated_megabytes": estimate}),
    }


def measure(settings: Settings, scratch: Path) -> dict[str, Any]:
    dataset = Path(settings.dataset) if settings.dataset else scratch / "dataset"
    if not dataset.exists():
        make_dataset(dataset, settings.items, settings.requests, settings.picture_bytes)
    once = write(dataset, scratch / "once", "catalogue", settings)
    once["first_batch_seconds"] = first_batch(scratch / "once")
    return {"catalogue": once, "streaming": write(dataset, scratch / "streaming", "streaming", settings)}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        found = measure(settings, Path(scratch))
    once, streaming = found["catalogue"], found["streaming"]
    kind = "self-contained shards" if "megabytes" in streaming else "self-contained shards, estimated"
    larger = streaming.get("megabytes", streaming["estimated_megabytes"])
    beside = once["megabytes"] - once["requests_megabytes"]
    ratios = [
        Ratio("MB", once["megabytes"], larger, kind, 1 / FEWER, at_most=True),
        Ratio("MB but for requests", beside, once["distinct_megabytes"], "the distinct pictures", MOST_BYTES, True),
        Ratio("seconds to the first batch", once["first_batch_seconds"], FIRST_BATCH, "wanted", 1, at_most=True),
    ]
    if "seconds" in streaming:
        ratios.append(Ratio("seconds", once["seconds"], streaming["seconds"], kind))
    finish(settings, found, ratios)


if __name__ == "__main__":
    run_command(main)
