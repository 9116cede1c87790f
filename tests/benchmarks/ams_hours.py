"""Hours of training on 5 to 40 nodes, computed from parts measured on this machine, beside the paper's.

    python tests/benchmarks/ams_hours.py
    python tests/benchmarks/ams_hours.py --speeds [1,30] --rates [1,10] --out scaling.json

``downstream.ams.paper.hours`` describes the model of a step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from downstream.ams.paper.bytes import NAMES
from downstream.ams.paper.hours import PAPER_HOURS, hours, measure_parts


@dataclass(frozen=True)
class Settings:
    """The computation.

    Attributes
    ----------
    speeds : tuple of float
        How many of this machine's cores a node equals.
    rates : tuple of float
        Of a node's link, Gbit/s.
    steps : int
        Measured for each part, after two to warm up.
    out : str
        JSON file of the figures; by default none.
    """

    speeds: tuple[float, ...] = (1.0, 30.0)
    rates: tuple[float, ...] = (1.0, 10.0)
    steps: int = 7
    out: str | None = None

    def __post_init__(self) -> None:
        if min(*self.speeds, *self.rates, self.steps) <= 0:
            raise UserError("speeds, rates and steps must be > 0")


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
