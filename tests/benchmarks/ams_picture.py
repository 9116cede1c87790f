"""Draw what the image server costs: bytes by kind and strategy, and step time on a slow network.

    python tests/benchmarks/ams_picture.py results/ams

reads table.json and network.json of that folder and writes bytes.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from data_tools.common.cli import UserError, run_command
from data_tools.common.files import read_json, whole_file
from downstream.ams.paper.bytes import NAMES

KINDS = {
    "raw features": ("features",),
    "image embeddings and gradients": ("embeddings", "gradients"),
    "id embeddings and gradients": ("id embeddings", "id gradients"),
    "numbers asked for": ("image ids", "id codes"),
    "gradient of the embedding model": ("model",),
}
COLOURS = ("#c44e52", "#4c72b0", "#55a868", "#8c8c8c", "#dd8452")


def draw_bytes(axes: plt.Axes, computed: dict[str, dict[str, int]]) -> None:
    """Stacked bars of megabytes a batch at the paper's setting; the long bar is cut off and its length written."""
    end = 650
    for place, strategy in enumerate(NAMES):
        left = 0.0
        for (label, kinds), colour in zip(KINDS.items(), COLOURS, strict=True):
            width = sum(computed[strategy].get(kind, 0) for kind in kinds) / 1e6
            axes.barh(place, width, left=left, color=colour, label=label if place == 0 else None, height=0.6)
            left += width
        inside = left > end
        where = {"x": end - 8 if inside else left + 8, "ha": "right" if inside else "left"}
        ink = "white" if inside else "black"
        axes.text(y=place, s=f"{left:,.0f} MB", va="center", color=ink, fontweight="bold", **where)
    axes.set_xlim(0, end)
    axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
    axes.invert_yaxis()
    axes.set_xlabel("MB a batch that leave their node (the bar of 5 GB is cut off)")
    axes.set_title("20 nodes, 320,000 images, 1.4 million ids a batch (computed)")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.42, -0.18), ncol=2, frameon=False)


def draw_steps(axes: plt.Axes, found: list[dict]) -> None:
    """Seconds a step by strategy, one group of bars for each number of processes and rate."""
    groups = list(dict.fromkeys((one["processes"], one["rate"]) for one in found))
    shades = ("#8c8c8c", "#c44e52", "#4c72b0")
    cases = {"worker": "store in worker", "server": "store in server", "AMS": "AMS"}
    for place, (case, label) in enumerate(cases.items()):
        fastest = {(one["processes"], one["rate"]): one["fastest"] for one in found if one["case"] == case}
        places = [number + 0.27 * (place - 1) for number in range(len(groups))]
        axes.bar(places, [fastest[group] for group in groups], 0.25, label=label, color=shades[place])
    rates = {"": "full speed", "1gbit": "1 Gbit/s", "100mbit": "100 Mbit/s"}
    labels = [f"{count} processes\n{rates.get(rate, rate)}" for count, rate in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=8)
    axes.set_ylabel("seconds a step, fastest")
    axes.set_title("Measured on 2 cores: 2,000 images a process, 4096 to 12")
    axes.legend(frameon=False)


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("name one folder, with table.json and network.json")
    folder = Path(sys.argv[1])
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), width_ratios=(1, 1.15))
    draw_bytes(left, read_json(folder / "table.json")["computed"]["all that travels"])
    draw_steps(right, read_json(folder / "network.json")["found"])
    figure.tight_layout()
    with whole_file(folder / "bytes.png") as scratch:
        figure.savefig(scratch, dpi=110, format="png")


if __name__ == "__main__":
    run_command(main)
