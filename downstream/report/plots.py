"""Plots as inline SVG that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from data_tools.common.charts import BETTER, DASHES, INK, LETTER, MUTED, STANDINS, STYLE, inline_svg, name_ends
from downstream.report.words import signed
from downstream.statistics.intervals import Interval


def limits(intervals: list[Interval]) -> tuple[float, float]:
    """A common range of several plots: all intervals and zero, with a margin."""
    low = min([0.0, *(interval.low for interval in intervals)])
    high = max([0.0, *(interval.high for interval in intervals)])
    margin = 0.06 * (high - low) or 0.001
    return low - margin, high + margin


Labelled = list[tuple[str, Interval]]


def draw_forest(
    axes: Axes, labelled: Labelled, metric: str, span: tuple[float, float], colours: Sequence[str] = tuple(STANDINS)
) -> None:
    """Differences with their intervals, one line each, around zero.

    A filled circle is an interval right of zero, a filled square one left of it, an open circle one that holds zero,
    so that nothing hangs on colour alone. The colours are for what is better, worse and neither, in the order of
    ``STANDINS``, after that of the text.
    """
    _, better, worse, muted = colours
    axes.axvline(0, color=muted, linewidth=1, linestyle=(0, (4, 3)))
    for place, (_, interval) in enumerate(labelled):
        colour, marker, fill = muted, "o", "none"
        if interval.low > 0:
            colour, marker, fill = better, "o", better
        elif interval.high < 0:
            colour, marker, fill = worse, "s", worse
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(interval.mean, place, marker=marker, markersize=7, color=colour, markerfacecolor=fill)
    axes.set(xlim=span, ylim=(len(labelled) - 0.5, -0.5), xlabel=metric)
    axes.set_yticks(range(len(labelled)), [label for label, _ in labelled])
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["left", "right", "top"]].set_visible(False)


def forest(labelled: Labelled, metric: str, span: tuple[float, float], described: str) -> str:
    """The drawing of :func:`draw_forest` by itself, for the page."""
    width = max(3.7, 1.9 + LETTER * max(len(label) for label, _ in labelled))  # long names take no room from the bars
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 0.7 + 0.3 * len(labelled)))
        draw_forest(axes, labelled, metric, span)
        figure.tight_layout(pad=0.3)
        return inline_svg(figure, described)


def draw_bars(
    axes: Axes,
    labelled: Labelled,
    metric: str,
    span: tuple[float, float],
    *,
    marks: Mapping[str, Interval],
    colours: Sequence[str] = tuple(STANDINS),
) -> None:
    """Differences as bars from zero with their intervals, one line each, their values on the right.

    A filled bar has an interval that excludes zero, an empty one holds it, so that nothing hangs on colour alone.

    Parameters
    ----------
    axes, labelled, metric, span, colours
        As in :func:`draw_forest`.
    marks : dict of str to Interval
        Vertical lines, by name: solid where the interval has no width, else dashed within its shaded range.
    """
    ink, better, worse, muted = colours
    for place, (_, interval) in enumerate(labelled):
        colour = better if interval.low > 0 else worse if interval.high < 0 else muted
        fill = "none" if colour == muted else colour
        axes.barh(place, interval.mean, height=0.6, color=fill, edgecolor=colour, linewidth=1, alpha=0.45)
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.text(1.02, place, signed(interval.mean, 3), transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    for line, (name, interval) in enumerate(marks.items()):
        wide = interval.high > interval.low
        axes.axvline(interval.mean, color=ink if not wide else muted, linewidth=1, linestyle="--" if wide else "-")
        if wide:
            axes.axvspan(interval.low, interval.high, color=muted, alpha=0.2, linewidth=0)
        beyond = interval.mean > (span[0] + span[1]) / 2  # the name is written towards the middle
        axes.annotate(
            name, (interval.mean, 1), xytext=(0, 3 + 13 * line), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", ha="right" if beyond else "left", va="bottom", fontsize=9, color=muted,
        )  # fmt: skip
    axes.set(xlim=span, ylim=(len(labelled) - 0.5, -0.5), xlabel=metric)
    axes.set_yticks(range(len(labelled)), [label for label, _ in labelled])
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["left", "right", "top"]].set_visible(False)


def bars(
    labelled: Labelled, metric: str, span: tuple[float, float], marks: Mapping[str, Interval], described: str
) -> str:
    """The drawing of :func:`draw_bars` by itself, for the page."""
    width = max(4.4, 3.1 + LETTER * max([len(label) for label, _ in labelled], default=0))
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 0.7 + 0.3 * len(labelled) + 0.18 * len(marks)))
        draw_bars(axes, labelled, metric, span, marks=marks)
        figure.tight_layout(pad=0.3)
        return inline_svg(figure, described)


def spectra(lines: dict[str, np.ndarray], described: str) -> str:
    """Falling shares of singular values, one line a table; nothing of tables that have none, such as of zeros alone."""
    lines = {name: kept for name, shares in lines.items() if len(kept := shares[shares > 1e-5])}
    if not lines:
        return ""
    width = max(5.4, 4.0 + LETTER * max(len(name) for name in lines))
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 3.0))
        ends = []
        for place, (name, kept) in enumerate(lines.items()):
            style = DASHES[place % len(DASHES)]
            axes.plot(np.arange(1, len(kept) + 1), kept, color=INK, linewidth=1.4, linestyle=style)
            ends.append((len(kept), kept[-1], name))
        axes.set(yscale="log", xlabel="dimension, the strongest first", ylabel="share of the spectrum")
        axes.set_xlim(1, max(2, *(end for end, _, _ in ends)))
        axes.spines[["top", "right"]].set_visible(False)
        name_ends(axes, ends)
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
