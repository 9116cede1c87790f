"""Until when the data reach that a table's vectors, or an encoder's weights, were learned from.

``saw_until`` of ``table.json`` (and of the weights that ``pretrain.export_encoder`` writes) is a time in the unit of
the log, the last one that was seen; "nothing" of what learned from no log, such as an encoder before training; null
where that is not known. A comparison flags tables that saw its test split.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NOTHING = "nothing"
Seen = int | str | None


def seen(info: dict[str, Any]) -> Seen:
    """What ``saw_until`` says: a time, ``NOTHING``, or None where that is not known."""
    until = info.get("saw_until")
    if until == NOTHING:
        return NOTHING
    return int(until) if isinstance(until, int | float) and not isinstance(until, bool) else None


def latest(parts: Iterable[Seen]) -> Seen:
    """What a whole has seen whose parts have seen this; None where one is not known."""
    parts = list(parts)
    if None in parts:
        return None
    return max((part for part in parts if part != NOTHING), default=NOTHING)
