"""Ten times the impressions: time and memory of loading a dataset and training a CTR model for one epoch.

    python tests/benchmarks/impressions.py --out results/benchmarks/impressions.json

Each size is measured in a process of its own, users and items being the same. Memory is the peak of what the process
holds of its own (anonymous pages): pages of memory-mapped arrays are the system's, which takes them back at will. The
peak of all resident pages is printed beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from click_log import write_click_log
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command

RUN = """
import json, sys, time
from data_tools.common.system import peak_memory
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.settings import ModelSettings, TrainingSettings
from own_memory import own_mebibytes, watched

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    before, found, settings = own_mebibytes(), {}, DataSettings(history=50)
    with watched() as peak:
        for name in ("first load", "later load"):
            start = time.perf_counter()
            data = load_ctr_data(given["dataset"], settings)
            found[name] = time.perf_counter() - start
        found["MiB while loading"] = peak.mebibytes - before
        start = time.perf_counter()
        optim = OptimSettings(batch_size=given["batch_size"], threads=given["threads"])
        result = fit(data, None, TrainingSettings(settings, ModelSettings(given["model"]), optim=optim), 0)
        found["training and scoring"] = time.perf_counter() - start
    found["samples a second"] = result.epochs[0]["samples_per_second"]
    found["seconds"] = found["first load"] + found["training and scoring"]
    found["MiB of its own"], found["MiB resident"] = peak.mebibytes, peak_memory()["process"]
    print(json.dumps(found))
"""

COMPARED = ("seconds", "training and scoring", "samples a second", "MiB of its own")


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    impressions : of the smaller log
    factor : how much larger the other is
    users, items : of both
    model : CTR model
    batch_size : impressions a step
    threads : CPU threads
    out : file of the figures; none by default
    """

    impressions: int = 100_000
    factor: int = 10
    users: int = 20_000
    items: int = 10_000
    model: str = "din"
    batch_size: int = 1024
    threads: int = 1
    out: str | None = None


def measured(settings: Settings, impressions: int) -> dict[str, float]:
    """Seconds and MiB of one size."""
    own = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with tempfile.TemporaryDirectory() as folder:
        write_click_log(Path(folder, "log"), impressions, settings.users, settings.items)
        given = json.dumps({**asdict(settings), "dataset": f"{folder}/log"})
        done = subprocess.run(
            [sys.executable, "-c", RUN, given], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": own}
        )
    if done.returncode:
        raise UserError(f"the training failed:\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    settings, console = parse_settings(Settings, __doc__), Console()
    found = {}
    for impressions in (settings.impressions, settings.factor * settings.impressions):
        found[impressions] = measured(settings, impressions)
        shown = ", ".join(f"{name} {value:,.2f}" for name, value in found[impressions].items())
        console.print(f"{impressions:,} impressions: {shown}")
    small, large = found.values()
    side = f"1/{settings.factor} of the impressions"
    finish(settings, {"found": found}, [Ratio(name, large[name], small[name], side) for name in COMPARED])


if __name__ == "__main__":
    run_command(main)
