"""The terminal summary of an inspected dataset, and the figures it shares with the page."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_tools.inspection.advice import SERIOUS, WATCH, Finding, Seen, findings

COLOURS = {SERIOUS: "red", WATCH: "yellow"}


def percent(share: float | None) -> str:
    """A share in per cent, a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def date(time: int, day: int) -> str:
    """The date of a time of the log; ``day`` is how many of its units a day has."""
    return datetime.fromtimestamp(time * 86_400 / day, UTC).strftime("%Y-%m-%d")


def plural(count: int, name: str) -> str:
    """A count and what is counted."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def headline(found: list[Finding]) -> str:
    """The findings in one sentence."""
    serious, watch = (sum(one.level == level for one in found) for level in (SERIOUS, WATCH))
    if serious:
        return f"{plural(serious, 'serious problem')} to fix first" + (f", and {watch:,} to watch." if watch else ".")
    if watch:
        return f"Usable; {plural(watch, 'point')} to keep in mind when reading results."
    return "Usable; no problems found."


def tiles(seen: Seen) -> list[tuple[str, str]]:
    """The main figures: (figure, what it is) each."""
    counts, log = seen.log["counts"], seen.log
    shown = [
        (f"{counts['impressions']:,}", "impressions"),
        (percent(counts["clicks"] / max(1, counts["impressions"])), "clicked"),
        (f"{counts['users']:,}", "users"),
        (f"{counts['items']:,}", "items"),
        (f"{(seen.pictures.width > 0).sum():,}", "with a picture"),
        (f"{counts['page_views']:,}", f"page views of {log['pages']['slots']:.1f}"),
    ]
    if "conversion" in counts:
        shown.append((f"{counts['conversion']:,}", "conversions"))
    if log["day"]:
        shown.append((date(counts["first"], log["day"]), f"to {date(counts['last'], log['day'])}"))
    return shown


def split_rows(seen: Seen) -> list[list[str]]:
    """One row per split: its name, sizes, and shares of cold items, new users and empty histories."""
    whole = ("impressions", "clicks", "click_rate", "page_views", "users", "items")
    shares = ("cold_share", "new_user_share", "empty_history_share")
    return [
        [
            row["split"],
            *(percent(row[name]) if name == "click_rate" else f"{row[name]:,}" for name in whole),
            *(
                "–" if row["split"] == "train" and name != "empty_history_share" else percent(row[name])
                for name in shares
            ),
        ]
        for row in seen.log["splits"]
    ]


def picture_facts(seen: Seen) -> list[tuple[str, str]]:
    """Facts about the pictures, (fact, value) each."""
    pictures = seen.pictures
    faults = Counter(fault for fault in pictures.fault if fault)
    usable = pictures.width > 0
    groups = pictures.groups()
    facts = [("items with a usable picture", f"{usable.sum():,} of {len(usable):,}")]
    facts += [(f"picture {fault}", f"{count:,}") for fault, count in faults.most_common()]
    if usable.any():
        sides = [np.percentile(side[usable], [5, 50, 95]).astype(int) for side in (pictures.width, pictures.height)]
        spread = ", ".join(f"{width} x {height}" for width, height in zip(*sides, strict=True))
        bytes_each = np.median(pictures.size[usable]) / 1024
        facts += [
            ("width x height, 5 %, median, 95 %", spread),
            ("size", f"{pictures.size.sum() / 2**20:,.1f} MiB in total, {bytes_each:,.1f} KiB at the median"),
            ("one flat colour", f"{pictures.blank.sum():,}"),
        ]
    same = sum(map(len, groups))
    facts.append(("same picture as another item", f"{plural(same, 'item')} in {plural(len(groups), 'group')}"))
    return facts


def print_summary(seen: Seen, console: Console) -> None:
    """The summary in the terminal."""
    console.print("  ".join(f"[bold]{value}[/bold] {name}" for value, name in tiles(seen)))
    table = Table(box=None)
    for name in ("split", "impressions", "click rate", "users", "items", "new items", "new users", "no history"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, impressions, _, rate, _, *others in split_rows(seen):
        table.add_row(split, impressions, rate, *others)
    console.print(table)
    for what, how in picture_facts(seen):
        console.print(f"{what}: [bold]{escape(how)}[/bold]")
    found = findings(seen)
    console.print(f"\n[bold]{headline(found)}[/bold]")
    for one in found:
        colour = COLOURS.get(one.level, "dim")
        console.print(f"[{colour}]{one.level:>8}[/{colour}]  [bold]{escape(one.what)}[/bold]")
        console.print(f"          {escape(one.why)} {escape(one.do)}")
