"""The page of an inspected dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from data_tools.common.charts import over_time
from data_tools.common.pages import jpeg_uri, render
from data_tools.dataset.schema import Dataset
from data_tools.inspection.advice import Seen, findings
from data_tools.inspection.summary import headline, percent, picture_facts, plural, split_rows, tiles
from data_tools.reading.images import BadImage, read_image

IN_STRIP, GROUPS, IN_GROUP, LISTED = 12, 8, 4, 200
THUMBNAIL = 120


def _thumbnail(dataset: Dataset, image: str) -> str | None:
    try:
        picture = read_image(dataset.picture(image), at_least=THUMBNAIL)
    except (BadImage, OSError):
        return None
    return jpeg_uri(picture, THUMBNAIL)


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
    return [(name, count, percent(count / total), round(100 * count / most, 1)) for name, count in rows]


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
        charts.append((name, over_time(starts, widths, values, marks=marks, described=described, share=share)))
    return charts


def _origin(seen: Seen) -> list[tuple[str, str]]:
    info = seen.info
    known = (
        "source",
        "licence",
        "page_views",
        "labels",
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
        by_split = ", ".join(f"{name} {one['auc']:.4f}" for name, one in oracle.items() if one["auc"] is not None)
        rows.append(("AUC of the oracle, test split", by_split))
    return rows


def _faults(ids: Iterable[str], faults: Iterable[str | None]) -> list[tuple[str, str]]:
    """Each fault of pictures and the items that have it."""
    items: dict[str, list[str]] = {}
    for item, fault in zip(ids, faults, strict=True):
        if fault:
            items.setdefault(fault, []).append(item)
    return [
        (fault, ", ".join(own[:LISTED]) + (f" and {len(own) - LISTED:,} more" if len(own) > LISTED else ""))
        for fault, own in items.items()
    ]


def _most_and_least_shown(dataset: Dataset, seen: Seen) -> dict[str, list[dict[str, str]]]:
    """Thumbnails of the pictured items with most impressions, and of those with fewest, with clicks of impressions."""
    pictured = seen.log["shows"].filter(np.array([fault is None for fault in seen.pictures.fault]))
    ordered = pictured.sort("impressions", "item", descending=[True, False])
    strips = {}
    for name, rows in (("most", ordered), ("least", ordered.filter(ordered["impressions"] > 0)[::-1])):
        rows = rows.head(IN_STRIP)
        captions = [f"{clicks:,} of {n:,}" for n, clicks in zip(rows["impressions"], rows["clicks"], strict=True)]
        strips[name] = _strip(dataset, rows["item"].to_list(), captions)
    return strips


def _groups(dataset: Dataset, seen: Seen) -> dict[str, Any]:
    """What the page shows of items with the same picture."""
    groups, ids = seen.pictures.groups(), dataset.items["item_id"].cast(str)
    named = [[ids[int(item)] for item in group[:LISTED]] for group in groups[:LISTED]]
    return {
        "groups": [
            _strip(dataset, group[:IN_GROUP].tolist(), own[:IN_GROUP])
            for group, own in zip(groups[:GROUPS], named, strict=False)
        ],
        "groups_note": f"The {min(GROUPS, len(groups))} largest of {plural(len(groups), 'group')}, at most {IN_GROUP} "
        "pictures each. Same means byte-identical, or equal at thumbnail size (perceptual hash, then a small copy).",
        "all_groups": [", ".join(own) for own in named],
        "groups_left": max(0, len(groups) - LISTED),
    }


def page(dataset: Dataset, seen: Seen) -> str:
    """The self-contained HTML page."""
    found, place = findings(seen), dataset.folder.resolve()
    days = seen.log["days"][0]["days"] if seen.log["days"] else 1
    context = {
        "title": f"Dataset {place.parent.name}/{place.name}",
        "headline": headline(found),
        "tiles": tiles(seen),
        "findings": found,
        "splits": split_rows(seen),
        "scenes": [[row["scene"], f"{row['impressions']:,}", percent(row["click_rate"])] for row in seen.log["scenes"]],
        "charts": _charts(seen),
        "bucket": "one day" if days == 1 else f"{days} days",
        "histories": _bars(seen.log["histories"]),
        "shown": _bars(seen.log["shown"]),
        "picture_facts": picture_facts(seen),
        **_most_and_least_shown(dataset, seen),
        **_groups(dataset, seen),
        "faults": _faults(dataset.items["item_id"].cast(str), seen.pictures.fault),
        "origin": _origin(seen),
    }
    return render("inspect.html.j2", context)
