"""How every benchmark ends: its ratios in a table, its figures in a file with provenance, a missed target an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by


@dataclass(frozen=True)
class Ratio:
    """A figure of ours over the same figure of another side.

    Attributes
    ----------
    what : str
        The figure and its unit, such as "images a second, resnet18".
    ours, other : float
    side : str
        What the other side is, with its version where it has one.
    wanted : float, optional
        Of ours over the other's.
    at_most : bool
        Whether the ratio is to be at most that; at least, by default.
    """

    what: str
    ours: float
    other: float
    side: str
    wanted: float | None = None
    at_most: bool = False

    @property
    def value(self) -> float:
        return self.ours / self.other

    @property
    def held(self) -> bool:
        """Whether the ratio is as wanted, or nothing is wanted of it."""
        if self.wanted is None:
            return True
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted

    def cells(self) -> tuple[str, ...]:
        """Its row of :func:`table`."""
        wanted = "" if self.wanted is None else f"{'≤' if self.at_most else '≥'} {self.wanted:g}"
        ratio = f"{self.value:.3g}" if self.held else f"[bold red]{self.value:.3g} missed[/]"
        ours, other = (f"{one:,.0f}" if one >= 1000 else f"{one:.4g}" for one in (self.ours, self.other))
        return self.what, ours, other, self.side, ratio, wanted


def table(*first: str) -> Table:
    """An empty table of ratios, with columns of the caller's before them."""
    made = Table(*first, "what", "ours", "other", "other side", "ratio", "wanted")
    for column in made.columns[-2:]:
        column.justify, column.no_wrap = "right", True
    return made


def heading(title: str) -> list[str]:
    """First lines of a page of figures, in Markdown: title, command, commit and machine."""
    made = made_by()
    machine = ", ".join(f"{name} {value}" for name, value in made["machine"].items() if value is not None)
    return [f"# {title}", "", f"`{made['command']}`", "", f"Commit {made['commit']}; {machine}.", ""]


def finish(
    settings: Any,
    figures: dict[str, Any],
    ratios: Iterable[Ratio] = (),
    *,
    needed: Callable[[Iterable[bool]], bool] = all,
) -> None:
    """Print the ratios, and write everything to ``settings.out`` where that is given.

    Parameters
    ----------
    settings : dataclass
        Of the program.
    figures : dict
        What it measured.
    ratios : Ratio
    needed : ``all`` or ``any``
        How many of the ratios that something is wanted of have to be as wanted.

    Raises
    ------
    UserError
        If they are not; the file is written all the same.
    """
    ratios = list(ratios)
    if ratios:
        printed = table()
        for one in ratios:
            printed.add_row(*one.cells())
        Console(width=140).print(printed)
    if settings.out:
        chosen = {name: value for name, value in asdict(settings).items() if name != "out"}
        listed = [{**asdict(one), "ratio": one.value} for one in ratios]
        used = {"threads": torch.get_num_threads(), "cores_used": len(os.sched_getaffinity(0))}
        write_json(settings.out, {"settings": chosen, **figures, "ratios": listed, **used, **made_by()})
    wanted = [one.held for one in ratios if one.wanted is not None]
    if wanted and not needed(wanted):
        raise UserError("a target was missed" if needed is all else "every target was missed")
