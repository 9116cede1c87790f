"""The comparison on one page, as a picture to paste into a mail: verdict, one chart, what was compared, how sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from data_tools.common.files import whole_file
from downstream.comparison.figures import Figures
from downstream.comparison.spec import ComparisonSpec
from downstream.report.panels import gain_chart
from downstream.report.plots import draw_bars
from downstream.report.words import METRIC_NAMES, SLICE_NAMES, Names, lower_first

WIDTH, MARGIN, DPI = 8.6, 0.45, 150  # inches, inches, pixels an inch
LINE = 1.45 / 72  # height of a line, in inches for a point of its size
INK, BETTER, WORSE, MUTED = COLOURS = ("#1b1f24", "#0a66b0", "#b3450b", "#667079")  # of the page, light


class Block(NamedTuple):
    """Lines of text of one size, weight and colour, and the room below them in inches."""

    lines: list[str]
    size: float
    weight: str = "normal"
    colour: str = INK
    below: float = 0.14

    @property
    def height(self) -> float:
        """Inches that it takes."""
        return len(self.lines) * self.size * LINE + self.below


def wide(text: str, size: float, weight: str = "normal") -> float:
    """Width of a text, in inches."""
    font = FontProperties(size=size, weight=weight)
    return RendererAgg(1, 1, 72).get_text_width_height_descent(text, font, ismath=False)[0] / 72


def cut(text: str, size: float, most: float) -> str:
    """A text, with dots in place of its end where it is wider than ``most`` inches."""
    while wide(text, size) > most:
        text = f"{text[:-2]}…"
    return text


def _block(text: str, size: float, **how: Any) -> Block:
    room, lines = WIDTH - 2 * MARGIN, [""]
    widths = {word: wide(f"{word} ", size, how.get("weight", "normal")) for word in set(text.split())}
    left = room
    for word in text.split():
        if widths[word] > left and lines[-1]:
            lines, left = [*lines, ""], room
        lines[-1], left = f"{lines[-1]} {word}".lstrip(), left - widths[word]
    return Block(lines, size, **how)


def _draw(figure: Figure, block: Block, top: float) -> float:
    """Write a block from ``top`` (inches from the bottom) down; returns where it ends."""
    height = figure.get_figheight()
    for number, line in enumerate(block.lines):
        place = (top - number * block.size * LINE) / height
        figure.text(MARGIN / WIDTH, place, line, size=block.size, weight=block.weight, color=block.colour, va="top")
    return top - block.height


def summary_figure(figures: Figures, spec: ComparisonSpec, context: dict[str, Any]) -> Figure:
    """The page.

    Parameters
    ----------
    figures, spec
        What was found and what was compared.
    context : dict
        What the report's templates show (see ``downstream.report.page.report_context``).
    """
    names, model = Names(spec.names), figures.models[0]
    labelled, marks, span = gain_chart(figures, spec, model, "all", names)
    labelled = [(cut(name, 9, WIDTH / 2), interval) for name, interval in labelled]
    metric = METRIC_NAMES[figures.tested]
    how = f"{context['level']} intervals" + (", each in its best form on validation" if len(spec.forms) > 1 else "")
    chart = f"{metric} gain over {names(spec.baseline)} in {names(model)}, {lower_first(SLICE_NAMES['all'])}; {how}"
    first, *others = context["verdict"]
    above = [
        _block(context["title"], 15, weight="bold"),
        _block(first, 11, weight="bold"),
        *(_block(sentence, 10) for sentence in others),
        *([_block(chart, 9, colour=MUTED, below=0.05)] if labelled else []),
    ]
    below = [
        _block(f"Compared: {context['compared']}", 9),
        _block(f"How sure: {context['sure']}", 9),
        _block(f"Commit {figures.made_by['commit']}. {figures.made_by['command']}", 7.5, colour=MUTED, below=0),
    ]
    crown = 0.18 * len(marks) + 0.05  # the marks' names, above the bars
    tall = (0.55 + 0.27 * len(labelled) + crown if labelled else 0) + 0.2
    height = sum(block.height for block in above + below) + tall + 2 * MARGIN
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9, "axes.edgecolor": MUTED}):
        figure = plt.figure(figsize=(WIDTH, height), facecolor="white")
        top = height - MARGIN
        for block in above:
            top = _draw(figure, block, top)
        if labelled:
            left = MARGIN + 0.1 + max(wide(name, 9) for name, _ in labelled)
            right = MARGIN + wide("+.0000 ", 9)  # the bars' values
            axes = (left / WIDTH, (top - tall + 0.6) / height)
            size = (1 - (left + right) / WIDTH, (tall - 0.55 - crown) / height)
            draw_bars(figure.add_axes((*axes, *size)), labelled, f"{metric} gain", span, marks=marks, colours=COLOURS)
        top -= tall
        for block in below:
            top = _draw(figure, block, top)
    return figure


def write_summary(path: Path, figures: Figures, spec: ComparisonSpec, context: dict[str, Any]) -> None:
    """Write the page as PNG."""
    figure = summary_figure(figures, spec, context)
    with whole_file(path) as scratch:
        figure.savefig(scratch, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
