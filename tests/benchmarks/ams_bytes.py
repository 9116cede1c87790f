"""The paper's table of bytes: measured on this machine, and computed for the paper's setting beside its own figures.

    python tests/benchmarks/ams_bytes.py
    python tests/benchmarks/ams_bytes.py --processes [2,4] --steps 3 --out table.json

Measured: a workload with an eighth of one of the paper's nodes' images and ids a process, counted at the collectives.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from downstream.ams.paper.bytes import GIGA, MEGA, NAMES, PAPER, Setting, all_that_travels, as_the_paper_counts
from downstream.ams.paper.measure import measure_together
from downstream.ams.paper.workload import Workload
from downstream.ams.strategies import STRATEGIES
from downstream.settings import ServerSettings


@dataclass(frozen=True)
class Settings:
    """The table.

    Attributes
    ----------
    processes : tuple of int
        Sizes of the groups that measure.
    steps : int
        Measured in each group, after two to warm up.
    work : Workload
        A process's part of a batch.
    out : str
        JSON file of all figures, with what made them; by default none.
    """

    processes: tuple[int, ...] = (2, 4)
    steps: int = 3
    work: Workload = field(default_factory=Workload)
    out: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.processes and min(self.processes) < 2):
            raise UserError(f"processes is {self.processes} and steps {self.steps}; they must be >= 2 and >= 1")


def _bytes(value: float) -> str:
    return f"{value / GIGA:.2f} G" if value >= GIGA else f"{value / MEGA:.2f} M"


def _show_computed(console: Console, setting: Setting) -> None:
    counted, everything = as_the_paper_counts(setting), all_that_travels(setting)
    title = f"{setting.nodes} nodes, {setting.rows:,} rows, {setting.images:,} images, {setting.ids:,} ids a batch"
    columns = ("communication", "paper's", "of it images", "paper's", "all that we count", "images in it")
    printed = Table("bytes a batch", *columns, title=f"Computed: {title}")
    for strategy, name in NAMES.items():
        total, images = counted[strategy]
        kinds = everything[strategy]
        own = sum(kinds.get(kind, 0) for kind in ("image ids", "embeddings", "gradients", "features"))
        cells = (total, PAPER[strategy][2], images, PAPER[strategy][3], sum(kinds.values()), own)
        printed.add_row(name, *map(_bytes, cells))
    console.print(printed)
    total, images = (counted["server"][place] / counted["ams"][place] for place in (0, 1))
    everywhere = sum(everything["server"].values()) / sum(everything["ams"].values())
    console.print(
        f"Server over AMS: {total:.1f}x in all (paper: {PAPER['server'][2] / PAPER['ams'][2]:.1f}x), {images:.0f}x of "
        f"images. With the numbers asked for and the embedding model's gradient ({_bytes(everything['ams']['model'])}, "
        f"the same whatever the strategy; the paper's table leaves it out): {everywhere:.1f}x."
    )
    stored = {strategy: sum(PAPER[strategy][:2]) for strategy in NAMES}
    console.print(
        f"Storage, the paper's figures: worker {_bytes(stored['worker'])}, AMS {_bytes(stored['ams'])}, "
        f"{stored['worker'] / stored['ams']:.1f}x less; computed for store in worker: "
        f"{_bytes(setting.images * setting.layers[0] * 4)} of features beside a batch's samples."
    )


def _row(found: dict, steps_images: int, item_bytes: int) -> list[str]:
    images, ids = found["images"]["bytes"], found["ids"]["bytes"]
    of_images = sum(images[kind] for kind in ("ids", "embeddings", "gradients", "features"))
    return [
        _bytes(sum(found["stored"])),
        _bytes(found["processes"] * steps_images * item_bytes) if found["settings"]["strategy"] == "worker" else "0",
        _bytes(sum(ids.values()) + of_images),
        _bytes(of_images),
        *(_bytes(images[kind]) for kind in ("ids", "embeddings", "gradients", "features")),
        _bytes(sum(ids.values())),
        _bytes(images["model"]),
    ]


def _show_measured(console: Console, work: Workload, found: list[dict]) -> None:
    columns = ("stored", "beside samples", "communication", "of it images", "asked", "embeddings", "gradients")
    title = f"Measured: {work.images:,} images and {work.codes:,} ids a process and batch, {work.width} -> {work.size}"
    printed = Table("n", "strategy", *columns, "features", "ids", "model", title=title)
    for column in printed.columns:
        column.no_wrap = True
    for one in found:
        strategy = one["settings"]["strategy"]
        printed.add_row(str(one["processes"]), NAMES[strategy], *_row(one, work.images, 4 * work.width))
    console.print(printed)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    console, found = Console(width=170), []
    setting = Setting()
    cases = [(settings.work, ServerSettings(strategy, shard_ids=True, verify=False), None) for strategy in STRATEGIES]
    if settings.processes:
        with tempfile.TemporaryDirectory() as folder:
            store = settings.work.make_store(Path(folder) / "store")
            for processes in settings.processes:
                found += measure_together(cases, processes, settings.steps, store.folder)
        _show_measured(console, settings.work, found)
    _show_computed(console, setting)
    if settings.out:
        figures = {
            "measured": {"work": asdict(settings.work), "cases": found},
            "computed": {
                "setting": asdict(setting),
                "as the paper counts": as_the_paper_counts(setting),
                "all that travels": all_that_travels(setting),
            },
            "paper": PAPER,
        }
        write_json(settings.out, {**figures, "made_by": made_by()})


if __name__ == "__main__":
    run_command(main)
