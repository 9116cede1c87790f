"""The page and the terminal summary of an inspected dataset."""

from __future__ import annotations

import base64
import io
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_tools.charts import TEMPLATES, over_time
from data_tools.images import BadImage, read_image
from data_tools.inspection.advice import SERIOUS, WATCH, Finding, Seen, findings
from data_tools.schema import Dataset

IN_STRIP, GROUPS, IN_GROUP, LISTED = 12, 8, 4, 200
THUMBNAIL = 120
COLOURS = {SERIOUS: "red", WATCH: "yellow"}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _when(time: int, day: int | None) -> str:
    return f"{time:,}" if day is None else datetime.fromtimestamp(time * 86_400 / day, UTC).strftime("%Y-%m-%d %H:%M")


def _plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _thumbnail(dataset: Dataset, image: str) -> str | None:
    try:
        picture = read_image((dataset.folder / image).read_bytes(), at_least=THUMBNAIL)
    except (BadImage, OSError):
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _strip(dataset: Dataset, items: list[int], captions: list[str]) -> list[dict[str, str]]:
    """Thumbnails of the items that have a picture."""
    rows = dataset.items[items].iter_rows(named=True)
    pictures = []
    for row, caption in zip(rows, captions, strict=True):
        source = row["image"] and _thumbnail(dataset, row["image"])
        if source:
            text = f"{row['item_id']}: {row.get('title') or row.get('category') or ''}"
            pictures.append({"source": source, "text": text, "caption": caption})
    return pictures


def _bars(rows: list[tuple[str, int]]) -> list[tuple[str, int, str, float]]:
    """(range, count, share, width of the bar in per cent of the longest), without empty ranges at the end."""
    while len(rows) > 1 and rows[-1][1] == 0:
        rows = rows[:-1]
    total, most = max(1, sum(count for _, count in rows)), max(1, *(count for _, count in rows))
    return [(name, count, _percent(count / total), round(100 * count / most, 1)) for name, count in rows]


def _charts(seen: Seen) -> list[tuple[str, str]]:
    days, day = seen.log["days"], seen.log["day"]
    if len(days) < 2:
        return []
    seconds = 86_400 / day
    starts, widths = [one["start"] * seconds for one in days], [one["days"] * 86_400.0 for one in days]
    splits = seen.info.get("splits", {})
    named = {"valid_start": "valid", "test_start": "test"}
    marks = {name: splits[key] * seconds for key, name in named.items() if key in splits}
    if len(marks) == 2 and marks["test"] - marks["valid"] < 0.1 * (starts[-1] + widths[-1] - starts[0]):
        marks = {"valid, test": marks["valid"], "": marks["test"]}
    wanted = {
        "impressions": ("Impressions", False),
        "click_rate": ("Click rate", True),
        "cold_share": ("Shown items new that day", True),
    }
    charts = []
    for key, (name, share) in wanted.items():
        values = [one[key] for one in days]
        described = f"{name} over time: from {values[0]:,.3g} to {values[-1]:,.3g}, at most {max(values):,.3g}"
        charts.append((name, over_time(starts, widths, values, marks, described, share)))
    return charts


def _picture_facts(seen: Seen) -> list[tuple[str, str]]:
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
            ("size", f"{pictures.size.sum() / 2**20:,.1f} MiB in all, {bytes_each:,.1f} KiB in the middle"),
            ("one flat colour", f"{pictures.blank.sum():,}"),
        ]
    same = sum(map(len, groups))
    facts.append(("the same picture as another item", f"{_plural(same, 'item')} in {_plural(len(groups), 'group')}"))
    return facts


def _origin(seen: Seen) -> list[tuple[str, str]]:
    info = seen.info
    known = (
        "source",
        "licence",
        "page_views",
        "labels",
        "unclicked",
        "new_item_share",
        "set_aside",
        "bad_images",
        "fingerprint",
    )
    rows = []
    for key in known:
        value = info.get(key)
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
        if value not in (None, "", 0.0):
            rows.append((key.replace("_", " "), str(value)))
    if oracle := info.get("oracle"):
        told = ", ".join(f"{name} {one['auc']:.4f}" for name, one in oracle.items() if one["auc"] is not None)
        rows.append(("AUC of the oracle, test split", told))
    return rows


def headline(found: list[Finding]) -> str:
    """The findings in one sentence."""
    serious, watch = (sum(one.level == level for one in found) for level in (SERIOUS, WATCH))
    if serious:
        return f"{_plural(serious, 'serious fault')} to mend first" + (f", and {watch:,} to watch." if watch else ".")
    if watch:
        return f"Usable; {_plural(watch, 'thing')} to watch when the figures are read."
    return "Usable; nothing stands out."


def _tiles(seen: Seen) -> list[tuple[str, str]]:
    counts, log = seen.log["counts"], seen.log
    tiles = [
        (f"{counts['impressions']:,}", "impressions"),
        (_percent(counts["clicks"] / max(1, counts["impressions"])), "clicked"),
        (f"{counts['users']:,}", "users"),
        (f"{counts['items']:,}", "items"),
        (f"{(seen.pictures.width > 0).sum():,}", "with a picture"),
        (f"{counts['page_views']:,}", f"page views of {log['pages']['slots']:.1f}"),
    ]
    if "conversion" in counts:
        tiles.append((f"{counts['conversion']:,}", "conversions"))
    if log["day"]:
        tiles.append((_when(counts["first"], log["day"])[:10], f"to {_when(counts['last'], log['day'])[:10]}"))
    return tiles


def _split_rows(seen: Seen) -> list[list[str]]:
    whole = ("impressions", "clicks", "click_rate", "page_views", "users", "items")
    shares = ("cold_share", "new_user_share", "empty_history_share")
    return [
        [
            row["split"],
            *(_percent(row[name]) if name == "click_rate" else f"{row[name]:,}" for name in whole),
            *(
                "–" if row["split"] == "train" and name != "empty_history_share" else _percent(row[name])
                for name in shares
            ),
        ]
        for row in seen.log["splits"]
    ]


def page(dataset: Dataset, seen: Seen) -> str:
    """The self-contained HTML page."""
    shows = seen.log["shows"]
    pictured = shows.filter(np.array([fault is None for fault in seen.pictures.fault]))
    ordered = pictured.sort("impressions", "item", descending=[True, False])
    rarest = ordered.filter(ordered["impressions"] > 0)[::-1]

    def strip(rows: Any) -> list[dict[str, str]]:
        rows = rows.head(IN_STRIP)
        captions = [f"{clicks:,} of {n:,}" for n, clicks in zip(rows["impressions"], rows["clicks"], strict=True)]
        return _strip(dataset, rows["item"].to_list(), captions)

    groups = seen.pictures.groups()
    ids = dataset.items["item_id"].cast(str)
    faults: dict[str, list[str]] = {}
    for item, fault in zip(ids, seen.pictures.fault, strict=True):
        if fault:
            faults.setdefault(fault, []).append(item)
    found = findings(seen)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    days = seen.log["days"][0]["days"] if seen.log["days"] else 1
    return environment.get_template("inspect.html.j2").render(
        title=f"Dataset {dataset.folder.resolve().parent.name}/{dataset.folder.resolve().name}",
        headline=headline(found),
        tiles=_tiles(seen),
        findings=found,
        splits=_split_rows(seen),
        scenes=[[row["scene"], f"{row['impressions']:,}", _percent(row["click_rate"])] for row in seen.log["scenes"]],
        charts=_charts(seen),
        bucket="one day" if days == 1 else f"{days} days",
        histories=_bars(seen.log["histories"]),
        shown=_bars(seen.log["shown"]),
        picture_facts=_picture_facts(seen),
        most=strip(ordered),
        least=strip(rarest),
        groups=[
            _strip(dataset, group[:IN_GROUP].tolist(), [ids[int(item)] for item in group[:IN_GROUP]])
            for group in groups[:GROUPS]
        ],
        groups_note=f"The {min(GROUPS, len(groups))} largest of {_plural(len(groups), 'group')}, at most {IN_GROUP} "
        "pictures each. The same: to the byte, or at thumbnail size (perceptual hash, then a small copy).",
        all_groups=[", ".join(ids[int(item)] for item in group[:LISTED]) for group in groups[:LISTED]],
        groups_left=max(0, len(groups) - LISTED),
        faults=[
            (fault, ", ".join(items[:LISTED]) + (f" and {len(items) - LISTED:,} more" if len(items) > LISTED else ""))
            for fault, items in faults.items()
        ],
        origin=_origin(seen),
    )


def print_summary(seen: Seen, console: Console) -> None:
    """The summary in the terminal."""
    console.print("  ".join(f"[bold]{value}[/bold] {name}" for value, name in _tiles(seen)))
    table = Table(box=None)
    for name in ("split", "impressions", "click rate", "users", "items", "new items", "new users", "no history"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, impressions, _, rate, _, *others in _split_rows(seen):
        table.add_row(split, impressions, rate, *others)
    console.print(table)
    for what, how in _picture_facts(seen):
        console.print(f"{what}: [bold]{escape(how)}[/bold]")
    found = findings(seen)
    console.print(f"\n[bold]{headline(found)}[/bold]")
    for one in found:
        colour = COLOURS.get(one.level, "dim")
        console.print(f"[{colour}]{one.level:>8}[/{colour}]  [bold]{escape(one.what)}[/bold]")
        console.print(f"          {escape(one.why)} {escape(one.do)}")
