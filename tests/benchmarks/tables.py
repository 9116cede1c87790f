"""A head on an embedding table: the time of a whole training, against the five minutes that a shop may wait.

    python tests/benchmarks/tables.py --out results/benchmarks/tables.json

12,044 vectors of 1,280 numbers (as many articles as one week of a fashion shop has; MobileNetV2's features), a linear
head to 128, COURIER on 1,024 requests of at most 10 clicks and 5 slots a step. The time is that of ``pretrain.train``
from start to end, with loader, log lines and validations. Requests are a simulated shop's, vectors are random: what is
learned does not matter to the time. The processor's seconds, loader processes included, are those of one core: they say
what an idle machine would need where this one is not.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from report import Ratio, finish

from data_tools.common.cli import parse_settings, run_command
from data_tools.sharding.read import all_records, open_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from data_tools.tables.table import write_table
from pretrain.encoder.families.tables import Table
from pretrain.settings import Batch, Encoder, Evaluation, Optim
from pretrain.settings import Settings as Pretrain
from pretrain.train import train

MOST_SECONDS, OF_STEPS = 300, 1000


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    items, size : vectors, and the length of each
    requests : of the simulated shop
    rows, steps : requests a step, and steps
    adapter : the head before the linear layer
    dropout : share of a vector's numbers dropped
    out : file of the figures; none by default
    """

    items: PositiveInt = 12_044
    size: PositiveInt = 1280
    requests: PositiveInt = 60_000
    rows: PositiveInt = 1024
    steps: PositiveInt = OF_STEPS
    adapter: str = "linear"
    dropout: float = 0.0
    out: str | None = None


def measure(settings: Settings, folder: Path) -> dict[str, float]:
    """Seconds of the whole training and of its steps alone, and its peak memory in MiB."""
    users = settings.requests // 5
    make_world(World(items=settings.items, users=users, requests=settings.requests, image_size=16), folder / "world")
    shards = folder / "world" / "shards"
    ids = [record["item_id"] for record in all_records(open_shards(shards), "items")]
    vectors = np.random.default_rng(0).standard_normal((len(ids), settings.size), dtype=np.float32)
    write_table(folder / "table", ids, vectors, {})
    options = Table.Settings(adapter=settings.adapter, dropout=settings.dropout)
    wanted = Pretrain(
        data=str(shards),
        out=str(folder / "run"),
        encoder=Encoder(family="table", name=str(folder / "table"), dimensions=128, table=options),
        batch=Batch(rows=settings.rows, history=10, slots=5),
        optim=Optim(steps=settings.steps, lr=1e-3, precision="fp32"),
        evaluation=Evaluation(every=100, history=10),
        checkpoint_every=500,
    )
    started, before = time.perf_counter(), processor_seconds()
    summary = train(wanted)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": processor_seconds() - before,
        "seconds_of_steps": summary["seconds"],
        "peak_memory_mib": summary["peak_memory_mib"],
    }


def processor_seconds() -> float:
    """Of this process and the loader processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(settings, Path(temporary))
    # Fewer steps than that: their time is scaled, that before and after them is not.
    around = figures["seconds"] - figures["seconds_of_steps"]
    ours = around + figures["seconds_of_steps"] * OF_STEPS / settings.steps
    what = f"seconds, 1,000 steps of {settings.rows:,} requests on {settings.items:,} vectors"
    finish(settings, {"figures": figures}, [Ratio(what, ours, MOST_SECONDS, "five minutes", 1.0, at_most=True)])


if __name__ == "__main__":
    run_command(main)
