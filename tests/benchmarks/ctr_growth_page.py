"""The figures of ctr_growth as a drawing and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from ctr_growth_measures import MODELS, SAME
from report import heading

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(figures: dict[str, Any], path: Path) -> None:
    """Time a step over the size, and memory and speed of scoring over the rows."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in MODELS:
        for optimizer, dashes in (("sparse_adam", "-"), ("adam", ":")):
            own = [one for one in figures["steps"] if one["name"] == name and one["optimizer"] == optimizer]
            for same in (True, False):
                line = [one for one in own if (one["among"] == SAME) is same]
                if (not same and optimizer == "adam") or not line:
                    continue
                label = f"{name}, {optimizer}, {'same impressions' if same else 'spread'}"
                left.plot(
                    [one["size"] for one in line],
                    [one["processor"] for one in line],
                    dashes if same else "--",
                    marker="o",
                    label=label,
                )
    left.set(xscale="log", yscale="log", xlabel="users and items", ylabel="ms a step (processor)")
    left.legend(fontsize=7)
    rows = [one["rows"] for one in figures["scoring"][1:]]
    right.plot(rows, [one["peak_mib"] for one in figures["scoring"][1:]], marker="o")
    most = max(one["peak_mib"] for one in figures["scoring"][1:])
    right.set(xscale="log", ylim=(0, 1.2 * most), xlabel="rows scored", ylabel="peak memory, MiB")
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)


def page(figures: dict[str, Any], batch_size: int, impressions: int) -> str:
    """The figures as Markdown."""
    lines = heading("CTR models as catalogue, table and log grow")
    lines += ["Times are those of the processor, on one thread.", ""]
    lines += [f"## A step of {batch_size} impressions, ms", ""]
    lines += ["| model | optimizer of the IDs | impressions | users and items | processor | clock | distinct items |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in figures["steps"]:
        kind = "same" if one["among"] == SAME else "spread"
        lines.append(
            f"| {one['name']} | {one['optimizer']} | {kind} | {one['size']:,} | {one['processor']:.1f} | "
            f"{one['wall']:.1f} | {one['distinct_items']:,} |"
        )
    table, (bare, *scored) = figures["table"], figures["scoring"]
    lines += ["", f"## DICM with a table of {table['items']:,} x {table['size']}", ""]
    lines += [
        f"Peak memory {table['peak_mib'] / 1024:.2f} GiB, {table['own_peak_mib'] / 1024:.2f} GiB without pages of "
        f"files; {table['processor']:.0f} s of the processor for joining, {impressions:,} impressions, "
        "validation and test.",
        "",
        "## Scoring with DIN",
        "",
        "| | rows | rows a second of the processor | on the clock | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for label, one in [("bare forward pass", bare), *(("downstream.serving", one) for one in scored)]:
        peak = f"{one['peak_mib']:,.0f}" if "peak_mib" in one else ""
        speeds = " | ".join(f"{one['rows'] / one[name]:,.0f}" for name in ("processor", "wall"))
        lines.append(f"| {label} | {one['rows']:,} | {speeds} | {peak} |")
    return "\n".join([*lines, "", "![](ctr_growth.png)", ""])
