"""The one-page summary says what the report says first, and nothing runs off the page."""

import matplotlib.pyplot as plt
import pytest

from downstream.comparison.figures import Figures, frame
from downstream.comparison.spec import ComparisonSpec
from downstream.report.panels import gain_chart
from downstream.report.summary import summary_figure
from downstream.report.words import Names

SPEC = ComparisonSpec("ids", "courier", ["vector", "simscore"], names={"clip": "CLIP on titles, as tuned by others"})


def figures(sources):
    rows = [
        {
            "a": source,
            "b": "ids",
            "form": "best",
            "model": "dicm",
            "slice": "all",
            "metric": "gauc",
            "mean": 0.01 * place,
        }
        | {"low": 0.01 * place - 0.02, "high": 0.01 * place + 0.02, "direction": 0}
        for place, source in enumerate(sources)
    ]
    cells = [{"source": source, "form": "vector", "model": "dicm"} for source in ("ids", *sources)]
    return Figures(
        differences=frame("differences", rows),
        cells=frame("cells", cells),
        chosen=frame("chosen", cells),
        made_by={"commit": "abc", "command": "python -m downstream.compare --config a/very/long/path.yaml " * 3},
    )


@pytest.mark.parametrize("sources", [["courier"], ["clip", "simclr", "courier"], []])
def test_everything_is_on_the_page(sources):
    verdict = ["COURIER (SimScore) raises the GAUC of DICM by $0.01 & <more> " * 6, "And so on. " * 30]
    context = {
        "title": "A title " * 15,
        "verdict": verdict,
        "compared": "IDs only " * 40,
        "sure": "95%",
        "level": "95%",
    }
    page = summary_figure(figures(sources), SPEC, context)
    page.canvas.draw()
    of_axes = [text for axes in page.axes for text in (*axes.get_yticklabels(), axes.xaxis.label)]
    drawn = [*page.texts, *of_axes]
    renderer = page.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in drawn]
    assert all(box.x0 > 0 and box.x1 < page.bbox.x1 and box.y0 > 0 and box.y1 < page.bbox.y1 for box in boxes)
    words = " ".join(text.get_text() for text in drawn).split()
    for said in (context["title"], *verdict, context["compared"]):
        assert " ".join(said.split()) in " ".join(words)
    if sources:
        assert {"CLIP on titles, as tuned by others, Vector"} <= {t.get_text() for t in drawn} or "clip" not in sources
        assert len(page.axes) == 1
    plt.close(page)


def test_the_chart_marks_baseline_and_ceiling_and_sorts_the_rest():
    spec = ComparisonSpec("ids", "courier", ["vector", "simscore"], ceiling="planted")
    chart = gain_chart(figures(["clip", "simclr", "courier", "planted"]), spec, "dicm", "all", Names({}))
    assert [name for name, _ in chart.lines] == ["COURIER, Vector", "SimCLR, Vector", "CLIP, Vector"]
    assert list(chart.marks) == ["IDs only", "Planted attributes +0.030"]
    assert chart.span[0] < -0.02 and chart.span[1] > 0.05  # the ceiling's interval fits
