"""Plots as inline SVG that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from data_tools.common.charts import BETTER, INK, MUTED, STYLE, WORSE, inline_svg
from downstream.statistics.intervals import Interval

LETTER = 0.075  # inches, about, of a name on a chart


def limits(intervals: list[Interval]) -> tuple[float, float]:
    """A common range of several plots: all intervals and zero, with a margin."""
    low = min([0.0, *(interval.low for interval in intervals)])
    high = max([0.0, *(interval.high for interval in intervals)])
    margin = 0.06 * (high - low) or 0.001
    return low - margin, high + margin


def forest(labelled: list[tuple[str, Interval]], metric: str, span: tuple[float, float], described: str) -> str:
    """Differences with their intervals, one line each, around zero.

    A filled circle is an interval right of zero, a filled square one left of it, an open circle one that holds zero,
    so that nothing hangs on colour alone.
    """
    width = max(3.7, 1.9 + LETTER * max(len(label) for label, _ in labelled))  # long names take no room from the bars
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 0.7 + 0.3 * len(labelled)))
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, (_, interval) in enumerate(labelled):
            colour, marker, fill = MUTED, "o", "none"
            if interval.low > 0:
                colour, marker, fill = BETTER, "o", BETTER
            elif interval.high < 0:
                colour, marker, fill = WORSE, "s", WORSE
            axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(interval.mean, place, marker=marker, markersize=7, color=colour, markerfacecolor=fill)
        axes.set(xlim=span, ylim=(len(labelled) - 0.5, -0.5), xlabel=metric)
        axes.set_yticks(range(len(labelled)), [label for label, _ in labelled])
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4)
        axes.spines[["left", "right", "top"]].set_visible(False)
        figure.tight_layout(pad=0.3)
        return inline_svg(figure, described)


def spread_out(heights: list[float], gap: float, low: float, high: float) -> np.ndarray:
    """Heights, moved as little as can be (in squares) until they are ``gap`` apart; within [low, high] if they fit."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    top = max(high - gap * (len(heights) - 1), low)
    placed = np.empty(len(heights))
    placed[order] = isotonic_regression(np.asarray(heights)[order] - steps, y_min=low, y_max=top) + steps
    return placed


def _name_ends(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
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
        clear = 0 if end == furthest else 7  # of the lines that go on
        heights = [axes.transData.transform(name.xy)[1] * points for name in together]
        for name, height, placed in zip(together, heights, spread_out(heights, 10.0, low, high), strict=True):
            name.xyann = (5, placed - height + clear)


# Lines are told apart by dashes and a name at their end, not by colour.
DASHES = [(0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)), (0, (8, 3))]


def curves(lines: dict[str, tuple[Sequence[float], Sequence[float]]], along: str, axis: str, described: str) -> str:
    """A figure over epochs or steps, whole numbers: name -> where, values."""
    width = 3.4 + LETTER * max(len(name) for name in lines)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, max(2.4, 0.9 + 0.15 * len(lines))))
        for place, (where, values) in enumerate(lines.values()):
            style = DASHES[place % len(DASHES)]
            axes.plot(where, values, color=INK, linewidth=1.4, marker=".", linestyle=style)
        axes.set(xlabel=along, ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        _name_ends(axes, [(where[-1], values[-1], name) for name, (where, values) in lines.items()])
        return inline_svg(figure, described)


def spectra(lines: dict[str, np.ndarray], described: str) -> str:
    """Falling shares of singular values, one line a table."""
    width = max(5.4, 4.0 + LETTER * max(len(name) for name in lines))
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 3.0))
        ends = []
        for place, (name, shares) in enumerate(lines.items()):
            kept = shares[shares > 1e-5]
            style = DASHES[place % len(DASHES)]
            axes.plot(np.arange(1, len(kept) + 1), kept, color=INK, linewidth=1.4, linestyle=style)
            ends.append((len(kept), kept[-1], name))
        axes.set(yscale="log", xlabel="dimension, the strongest first", ylabel="share of the spectrum")
        axes.set_xlim(1, max(end for end, _, _ in ends))
        axes.spines[["top", "right"]].set_visible(False)
        _name_ends(axes, ends)
        return inline_svg(figure, described)


def survival(lines: dict[str, list[tuple[float, float]]], axis: str, described: str) -> str:
    """What is left of the best after each stage, by the number of items left; from many on the left to few."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 2.8))
        for place, (name, points) in enumerate(lines.items()):
            kept, share = np.array(points).T
            axes.plot(
                kept, share, color=INK, linewidth=1.4, marker="o", markersize=5, linestyle=DASHES[place % len(DASHES)]
            )
            axes.annotate(name, (kept[-1], share[-1]), xytext=(7, 0), textcoords="offset points", va="center")
        ticks = sorted({round(kept) for points in lines.values() for kept, _ in points})
        axes.set(xscale="log", ylim=(0, 1.05), xlabel="ads left", ylabel=axis)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout(pad=0.3)
        return inline_svg(figure, described)


def reliability(lines: dict[str, tuple[list[float], list[float]]], described: str) -> str:
    """Observed against predicted click rates around the diagonal: name -> predicted, observed."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 3.4))
        top = 1.05 * max(max(values) for line in lines.values() for values in line)
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, (name, (predicted, observed)) in enumerate(lines.items()):
            colour, marker = (INK, BETTER)[place % 2], "so"[place % 2]
            axes.plot(
                predicted, observed, color=colour, linewidth=1.4, marker=marker, markersize=4,
                linestyle=DASHES[place % len(DASHES)], label=name,
            )  # fmt: skip
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted click rate", ylabel="observed click rate")
        axes.legend(frameon=False, loc="upper left")
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout(pad=0.3)
        return inline_svg(figure, described)
