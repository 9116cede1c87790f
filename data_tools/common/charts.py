"""Charts as inline SVG that reads on light and dark pages."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from html import escape

import matplotlib
import matplotlib.pyplot as plt

# Charts are drawn in these colours, which are then replaced by those of the page's style sheet (light or dark).
STANDINS = {"#000001": "currentColor", "#000002": "var(--better)", "#000003": "var(--worse)", "#000004": "var(--muted)"}
INK, BETTER, WORSE, MUTED = STANDINS
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
    marks: dict[str, float],
    described: str,
    share: bool = False,
) -> str:
    """Bars over time.

    Parameters
    ----------
    starts, widths : of each bar, in seconds since 1970 and in seconds
    values : heights
    marks : name -> time of a dashed line
    described : text for screen readers
    share : whether heights are shares, shown in per cent

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
