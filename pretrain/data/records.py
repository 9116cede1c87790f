"""What shards say besides pictures: their records, the categories, and how often items are in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.sharding.read import all_records, near_duplicates, open_shards


def records(shards: str | Path, kind: str) -> Iterator[dict[str, Any]]:
    """JSON records of the catalogue ("items") or of the training requests ("requests"); pictures are skipped over."""
    yield from all_records(open_shards(shards), "items" if kind == "items" else "train")


def categories(shards: str | Path) -> list[str]:
    """The catalogue's categories, sorted."""
    return sorted({record["category"] for record in records(shards, "items") if record.get("category") is not None})


def log_shares(shards: str | Path, history: int, slots: int) -> tuple[Tensor, Tensor]:
    """ln of each item's share of all page-view slots, and of all fresh clicks, of the training requests.

    Slots and clicks are those that batches of ``history`` clicks and ``slots`` slots hold.

    Returns
    -------
    page, click : float tensors (largest item + 1,); an item without any counts as one, and near-duplicates as the first
    """
    page: Counter[int] = Counter()
    click: Counter[int] = Counter()
    copy_of = near_duplicates(open_shards(shards))
    for record in records(shards, "requests"):
        shown, clicked = ([copy_of.get(item, item) for item in record[name]] for name in ("page", "history"))
        page.update(shown[:slots])
        clicked = clicked[-history:]
        click.update(dict.fromkeys(clicked, 0))  # items that are in batches, though not as targets
        click.update(clicked[max(0, len(clicked) - record["fresh"]) :])
    counts = torch.ones(2, 1 + max(max(page), max(click)), dtype=torch.float64)
    for row, found in zip(counts, (page, click), strict=True):
        row[list(found)] = torch.tensor(list(found.values()), dtype=row.dtype).clamp(min=1)
    return tuple((count / count.sum()).log().float() for count in counts)
