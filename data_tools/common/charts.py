"""Charts as inline SVG that reads on light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

# Charts are drawn in these colours, which are then replaced by those of the page's style sheet (light or dark).
STANDINS = {"#000001": "currentColor", "#000002": "var(--better)", "#000003": "var(--worse)", "#000004": "var(--muted)"}
INK, BETTER, WORSE, MUTED = STANDINS
# Lines differ in their dashes and in the name at their end, not in colour.
DASHES = [(0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)), (0, (8, 3))]
LETTER = 0.075  # inches, about, of a letter of a name on a chart
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "visual-interest",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": MUTED,
}


def inline_svg(figure: plt.Figure, described: str) -> str:
    """The figure as an ``<svg>`` element without metadata, namespaces, sizes or ids that could clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    view = re.search(r'viewBox="([^"]+)"', svg).group(1)
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view}" role="img" aria-label="{escape(described)}">', svg, count=1)
    svg = re.sub(
        r' id="(?:figure|axes|patch|text|line2d|matplotlib|xtick|ytick|LineCollection|PathCollection)[^"]*"', "", svg
    )
    svg = re.sub(r' font-family: [^;"]*, sans-serif;', "", svg)  # the page's own font
    for standin, colour in STANDINS.items():
        svg = svg.replace(standin, colour)
    return svg


def over_time(
    starts: list[float],
    widths: list[float],
    values: list[float],
    *,
    marks: dict[str, float],
    described: str,
    share: bool = False,
) -> str:
    """Bars over time.

    Parameters
    ----------
    starts, widths : list of float
        Of each bar, in seconds since 1970 and in seconds.
    values : list of float
        Heights.
    marks : dict of str to float
        Name -> time of a dashed line.
    described : str
        Text for screen readers.
    share : bool
        Whether heights are shares, shown in per cent.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    day = 86_400
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.4, 2.0))
        axes.bar(
            [start / day for start in starts], values, [width / day for width in widths], align="edge", color=BETTER
        )
        for name, time in marks.items():
            axes.axvline(time / day, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(
                time / day, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9
            )
        low, high = starts[0] / day, (starts[-1] + widths[-1]) / day
        axes.set_xlim(low, high)
        ticks = [low + (high - low) * part for part in (0, 0.5, 1)]
        names = [datetime.fromtimestamp(tick * day, UTC).strftime("%Y-%m-%d") for tick in ticks]
        axes.set_xticks(ticks, names)
        for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set_horizontalalignment(side)
        axes.locator_params(axis="y", nbins=4)
        kind = matplotlib.ticker.PercentFormatter(1) if share else matplotlib.ticker.EngFormatter(sep="")
        axes.yaxis.set_major_formatter(kind)
        axes.spines[["right", "top"]].set_visible(False)
        figure.tight_layout(pad=0.4)
        return inline_svg(figure, described)


def spread_out(heights: list[float], gap: float, low: float, high: float) -> np.ndarray:
    """Heights, moved as little as can be (in squares) until they are ``gap`` apart; within [low, high] if they fit."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    top = max(high - gap * (len(heights) - 1), low)
    placed = np.empty(len(heights))
    apart = isotonic_regression(np.asarray(heights, dtype=float)[order] - steps).x
    placed[order] = apart.clip(low, top) + steps
    return placed


def name_ends(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Write each line's name at its end (x, y, name), above or below it where names of lines that end there overlap."""
    furthest = max(x for x, _, _ in ends)
    names: dict[float, list[Annotation]] = {}
    for x, y, name in ends:
        said = axes.annotate(name, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
        names.setdefault(x, []).append(said)
    axes.figure.tight_layout(pad=0.3)  # makes room for the names, and settles where a height is on the page
    points = 72 / axes.figure.dpi
    low, high = axes.get_window_extent().intervaly * points
    for end, together in names.items():
        clear = 0 if end == furthest else 7  # of the lines that continue
        heights = [axes.transData.transform(name.xy)[1] * points for name in together]
        for name, height, placed in zip(together, heights, spread_out(heights, 10.0, low, high), strict=True):
            name.xyann = (5, placed - height + clear)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    along: str,
    axis: str,
    described: str,
    *,
    limits: Sequence[float] = (),
    mark: float | None = None,
) -> str:
    """Lines over epochs or steps, each named at its end.

    Parameters
    ----------
    lines : dict of str to (places, values)
        By name; places are whole numbers.
    along, axis : str
        Names of the axes.
    described : str
        Read out in place of the chart.
    limits : sequence of float
        Heights of thin horizontal lines, such as the ends of a healthy range.
    mark : float, optional
        Place of a dashed vertical line.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    width = 3.4 + LETTER * max(len(name) for name in lines)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, max(2.4, 0.9 + 0.15 * len(lines))))
        for place, (where, values) in enumerate(lines.values()):
            style = DASHES[place % len(DASHES)]
            axes.plot(where, values, color=INK, linewidth=1.4, marker=".", linestyle=style)
        for limit in limits:
            axes.axhline(limit, color=WORSE, linewidth=1, linestyle=(0, (1, 2)))
        if mark is not None:
            axes.axvline(mark, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel=along, ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        name_ends(axes, [(where[-1], values[-1], name) for name, (where, values) in lines.items()])
        return inline_svg(figure, described)
