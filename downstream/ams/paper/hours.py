"""Hours of training on 5 to 40 nodes, computed from parts measured on this machine, beside the paper's.

    python -m downstream.ams.paper.hours
    python -m downstream.ams.paper.hours --speeds [1,30] --rates [1,10] --out scaling.json

The model of a step on n nodes (ours): seconds(n) = compute / (n speed) + sent(n) / rate + overhead(n), where

* compute is the paper's batch on one core of this machine: seconds an image (embedding model, forward and backward,
  reading included) and seconds an id (look-up, pooling, MLP, Adam) times the paper's numbers. Both are slopes of step
  times measured with more and fewer of them, without a network. ``speed`` is how many such cores a node is worth.
* sent(n) is what a node sends: all that ``downstream.ams.paper.bytes`` counts for n nodes, over n. Nothing overlaps.
* overhead(n) = fixed + a (n - 1): measured steps with next to nothing in them, in one process and in two, each on a
  core of its own.

Images and ids a batch are taken to be the same for every n. Neither the batches of 18 days nor the paper's nodes and
network are known, so hours are in proportion to the paper's 62.9 on 5 nodes: it is the shape that is computed.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from downstream.ams.paper.bytes import NAMES, Setting, all_that_travels
from downstream.ams.paper.measure import measure_together
from downstream.ams.paper.workload import Workload
from downstream.ams.settings import ServerSettings

PAPER_HOURS = {5: 62.9, 10: 32.0, 20: 17.4, 40: 10.2}
TINY = {"rows": 4, "images": 4, "codes": 4}


@dataclass(frozen=True)
class Settings:
    """The computation.

    Attributes
    ----------
    speeds : how many of this machine's cores a node is worth in computing
    rates : of a node's link, Gbit/s
    steps : measured for each part, after two to warm up
    out : JSON file of the figures; none where it is not given
    """

    speeds: tuple[float, ...] = (1.0, 30.0)
    rates: tuple[float, ...] = (1.0, 10.0)
    steps: int = 7
    out: str | None = None

    def __post_init__(self) -> None:
        if min(*self.speeds, *self.rates, self.steps) <= 0:
            raise UserError("speeds, rates and steps above 0 are expected")


@dataclass(frozen=True)
class Parts:
    """What was measured, in seconds: an image, an id with its share of a sample, and a step's fixed part and slope."""

    image: float
    code: float
    fixed: float
    peer: float

    def step(self, nodes: int, strategy: str, speed: float, rate: float) -> float:
        """Seconds of a step of the paper's batch; ``rate`` in Gbit/s."""
        setting = Setting(nodes=nodes)
        compute = (setting.images * self.image + setting.ids * self.code) / nodes / speed
        sent = sum(all_that_travels(setting)[strategy].values()) / nodes
        return compute + sent / (rate * 1e9 / 8) + self.fixed + self.peer * (nodes - 1)


def measure_parts(steps: int) -> Parts:
    """Measure on this machine: one process for the slopes, one and two for the overhead."""
    whole = Workload()
    half_images, codes = replace(whole, images=whole.images // 2), replace(whole, images=whole.rows)
    # An id costs little: its slope is taken with one image a sample, which do not drown it.
    more_codes = replace(codes, codes=8 * codes.codes)
    server = ServerSettings("ams", verify=False)
    with tempfile.TemporaryDirectory() as folder:
        store = whole.make_store(Path(folder) / "store").folder

        def seconds(works: list[Workload], processes: int, shard: bool) -> list[float]:
            cases = [(work, replace(server, shard_ids=shard), None) for work in works]
            return [min(one["seconds"]) for one in measure_together(cases, processes, steps, store)]

        full, fewer_images, few, many = seconds([whole, half_images, codes, more_codes], 1, False)
        alone, together = (seconds([replace(whole, vocabulary=1000, **TINY)], count, True)[0] for count in (1, 2))
    return Parts(
        image=max(full - fewer_images, 0.0) / (whole.images - half_images.images),
        code=max(many - few, 0.0) / (more_codes.codes - codes.codes),
        fixed=alone,
        peer=max(together - alone, 0.0),
    )


def hours(parts: Parts, strategy: str, speed: float, rate: float) -> dict[int, float]:
    """Hours by number of nodes, in proportion to the paper's for AMS on the fewest nodes."""
    fewest = min(PAPER_HOURS)
    unit = PAPER_HOURS[fewest] / parts.step(fewest, "ams", speed, rate)
    return {nodes: unit * parts.step(nodes, strategy, speed, rate) for nodes in PAPER_HOURS}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    console, found = Console(width=120), []
    parts = measure_parts(settings.steps)
    console.print(
        f"Measured here: {1e6 * parts.image:.1f} us an image, {1e6 * parts.code:.2f} us an id; a step's overhead "
        f"{1e3 * parts.fixed:.1f} ms + {1e3 * parts.peer:.1f} ms a further process"
    )
    printed = Table(
        "cores a node", "Gbit/s", "strategy", *(f"{nodes} nodes" for nodes in PAPER_HOURS), "speed-up 5 to 40"
    )
    printed.add_row("", "", "the paper, AMS", *(f"{one:.1f}" for one in PAPER_HOURS.values()), f"{62.9 / 10.2:.2f}")
    for speed in settings.speeds:
        for rate in settings.rates:
            for strategy, name in NAMES.items():
                own = hours(parts, strategy, speed, rate)
                seconds = {nodes: parts.step(nodes, strategy, speed, rate) for nodes in own}
                found.append({"cores": speed, "gbit": rate, "strategy": strategy, "hours": own, "step": seconds})
                gain = f"{own[5] / own[40]:.2f}"
                printed.add_row(f"{speed:g}", f"{rate:g}", name, *(f"{one:.1f}" for one in own.values()), gain)
    console.print(printed)
    if settings.out:
        figures = {"parts": asdict(parts), "computed": found, "paper": PAPER_HOURS}
        write_json(settings.out, {**figures, "made_by": made_by()})


if __name__ == "__main__":
    run_command(main)
