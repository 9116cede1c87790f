"""One curve of several comparisons: how the gain over IDs grows with what they differ in.

    python -m downstream.curve --comparisons '[results/history/5, results/history/20]' --at '[5, 20]' \\
        --axis "clicks the model looks back on" --out results/history/gain

OUT.png and OUT.md get, for each embedding source, the difference from IDs only at each place, with its interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, whole_file
from data_tools.common.provenance import this_command
from downstream.report.words import SLICE_NAMES, Names


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """What to draw.

    Attributes
    ----------
    comparisons : list of str
        Folders of finished comparisons, in order.
    at : list of float
        Where each is on the axis.
    axis : str
        What they differ in.
    out : str
        Files OUT.png and OUT.md are written.
    title : str
        Title of both.
    metric : str
        Metric whose differences from IDs only are shown: gauc, auc or log_loss.
    form : str
        Form of the embeddings; best is each one's best on validation.
    model : str or null
        CTR model; null where the comparisons have one.
    sources : list of str or null
        Sources to show, in order; null takes all that the comparisons have.
    names : dict of str to str
        Display names of sources, in place of the built-in ones.
    drawn : list of str or null
        Sources in the picture; null draws all of them. The table holds the others, too.
    slices : list of str
        Parts of the test split, a panel each: all, warm (items shown in training) or cold (never shown).
    logarithmic : bool
        Whether the axis is logarithmic.
    """

    comparisons: list[str]
    at: list[float]
    axis: str
    out: str
    title: str = ""
    metric: Literal["gauc", "auc", "log_loss"] = "gauc"
    form: str = "best"
    model: str | None = None
    sources: list[str] | None = None
    names: dict[str, str] = field(default_factory=dict)
    drawn: list[str] | None = None
    slices: list[Literal["all", "warm", "cold"]] = field(default_factory=lambda: ["all", "cold"])
    logarithmic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.comparisons) != len(self.at) or not self.at:
            raise UserError(
                f"{len(self.comparisons)} comparisons and {len(self.at)} places on the axis; the numbers must be equal"
            )


def gains(settings: Settings, part: str) -> dict[str, dict[float, dict[str, Any]]]:
    """Source -> place on the axis -> its difference from IDs only (a row of ``differences`` in figures.json).

    Raises
    ------
    UserError
        If a comparison holds none of what is asked for.
    """
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for folder, place in zip(settings.comparisons, settings.at, strict=True):
        figures = read_json(Path(folder) / "figures.json")
        ids_only = {cell["source"] for cell in figures["cells"] if cell["form"] == "none"}
        rows = [
            row
            for row in figures["differences"]
            if (row["form"], row["metric"], row["slice"]) == (settings.form, settings.metric, part)
            and row["b"] in ids_only
            and settings.model in (None, row["model"])
        ]
        if not rows:
            forms = sorted({row["form"] for row in figures["differences"]})
            raise UserError(f"{folder} compares no {settings.metric} of {settings.form!r} on {part!r}; forms: {forms}")
        if len({row["model"] for row in rows}) > 1:
            raise UserError(f"{folder} compares several models; name one with --model")
        for row in rows:
            found.setdefault(row["a"], {})[place] = row
    if unknown := {*(settings.sources or []), *(settings.drawn or [])} - found.keys():
        raise UserError(f"no comparison has the sources {sorted(unknown)}; they have {sorted(found)}")
    return {source: found[source] for source in settings.sources or found}


def _draw(axes: Axes, lines: dict[str, dict[float, dict[str, Any]]], settings: Settings, part: str) -> None:
    """Lines with intervals, distinguished by markers and dashes as well as by shade."""
    axes.axhline(0, color="0.6", linewidth=1)
    span = max(settings.at) - min(settings.at) or 1
    for number, (source, line) in enumerate(lines.items()):
        shift = (number - (len(lines) - 1) / 2) * 0.008
        places = [place * (1 + 4 * shift) if settings.logarithmic else place + shift * span for place in line]
        means = [row["mean"] for row in line.values()]
        errors = [
            [row["mean"] - row["low"] for row in line.values()],
            [row["high"] - row["mean"] for row in line.values()],
        ]
        axes.errorbar(
            places, means, errors, label=Names(settings.names)(source), capsize=2, linewidth=1.4,
            marker="osD^vPX*"[number % 8], markersize=5, linestyle=("-", "--", ":", "-.")[number % 4],
        )  # fmt: skip
    if settings.logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(settings.at, [f"{place:,g}" for place in settings.at])
    axes.minorticks_off()
    axes.set(xlabel=settings.axis, title=SLICE_NAMES[part])
    axes.spines[["top", "right"]].set_visible(False)


def picture(found: dict[str, dict[str, dict[float, dict[str, Any]]]], settings: Settings) -> plt.Figure:
    """A panel for each part of the test split."""
    with plt.style.context("tableau-colorblind10"):
        figure, panels = plt.subplots(1, len(found), figsize=(1 + 4.4 * len(found), 4.0), sharey=True, squeeze=False)
        for axes, (part, lines) in zip(panels[0], found.items(), strict=True):
            chosen = {name: line for name, line in lines.items() if name in (settings.drawn or lines)}
            _draw(axes, chosen, settings, part)
        panels[0, 0].set_ylabel(f"{settings.metric.upper()} over IDs only")
        panels[0, -1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(settings.title)
        figure.tight_layout()
    return figure


def table(lines: dict[str, dict[float, dict[str, Any]]], settings: Settings) -> list[str]:
    """Markdown: a line a source, a column a place."""

    def interval(row: dict[str, Any] | None) -> str:
        return f"{row['mean']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})" if row else "–"

    header = [settings.axis, *(f"{place:,g}" for place in settings.at)]
    names = Names(settings.names)
    rows = [[names(source), *(interval(line.get(place)) for place in settings.at)] for source, line in lines.items()]
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    found = {part: gains(settings, part) for part in settings.slices}
    out = Path(settings.out)
    with whole_file(out.with_name(f"{out.name}.png")) as scratch:
        picture(found, settings).savefig(scratch, dpi=110, format="png")
    said = [f"# {settings.title}", ""] if settings.title else []
    said += [f"{settings.metric.upper()} over IDs only, with the intervals of the comparisons' reports.", ""]
    for part, lines in found.items():
        said += [f"## {SLICE_NAMES[part]}", "", *table(lines, settings), ""]
    said += [f"- Command: {this_command(__spec__.name)}", ""]
    with whole_file(out.with_name(f"{out.name}.md")) as scratch:
        scratch.write_text("\n".join(said), encoding="utf-8")
    print(f"{out}.png, {out}.md")


if __name__ == "__main__":
    run_command(main)
