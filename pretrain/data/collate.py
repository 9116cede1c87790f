"""Encoded batches -> tensors, each distinct picture decoded once. The keys are those of :mod:`pretrain.data.stream`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from data_tools.sharding.read import Pictures
from pretrain.data.transforms import Decoder, ItemNumbers

# What a batch says of its catalogue records besides: tensors (n, ...) by name.
Annotate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]
# An encoded batch: pictures' bytes by item, and the records that mention them.
Encoded = tuple[Pictures, list[dict[str, Any]]]
NONE: Mapping[int, int] = MappingProxyType({})


def items_of(record: dict[str, Any]) -> list[int]:
    """The items whose pictures a record of a shard mentions."""
    return [record["item"]] if "item" in record else record["history"] + record["page"]


def places(items: list[int], index: dict[int, int]) -> list[int]:
    """Places of items among the distinct ones, which ``index`` (item -> place) gathers in order of appearance."""
    return [index.setdefault(item, len(index)) for item in items]


def filled(rows: list[list[Any]], padding: float, dtype: torch.dtype, width: int | None = None) -> Tensor:
    """Rows of at most ``width`` values as (rows, width), left-aligned; without a width that of the longest row."""
    width = max(map(len, rows), default=0) if width is None else width
    lengths = torch.tensor([len(row) for row in rows])
    out = torch.full((len(rows), width), padding, dtype=dtype)
    out[torch.arange(width) < lengths[:, None]] = torch.tensor(list(chain.from_iterable(rows)), dtype=dtype)
    return out


def named(items: list[int], copy_of: Mapping[int, int]) -> dict[str, Tensor]:
    """``image_item``, and where items have near-duplicates, which ``copy_of`` says, ``image_copy_of``."""
    found = {"image_item": torch.tensor(items)}
    return found | ({"image_copy_of": torch.tensor([copy_of.get(item, item) for item in items])} if copy_of else {})


def request_batch(
    encoded: Encoded,
    decoder: Decoder | ItemNumbers,
    history: int,
    slots: int,
    copy_of: Mapping[int, int] = NONE,
) -> dict[str, Tensor]:
    """Decode and lay out a batch of requests."""
    pictures, requests = encoded
    index: dict[int, int] = {}
    clicked, shown, click = [], [], []
    for request in requests:
        clicked.append(places(request["history"][-history:], index)[::-1])
        shown.append(places(request["page"][:slots], index))
        click.append(request["click"][:slots])
    return {
        "history": filled(clicked, -1, torch.long, history).flip(1),
        "fresh": torch.tensor([min(request["fresh"], history) for request in requests]),
        "page": filled(shown, -1, torch.long, slots),
        "click": filled(click, 0, torch.float32, slots),
        "images": decoder.views(pictures, list(index)),
        **named(list(index), copy_of),
    }


def item_batch(
    encoded: Encoded,
    decoder: Decoder | ItemNumbers,
    views: int = 2,
    annotate: Annotate | None = None,
    copy_of: Mapping[int, int] = NONE,
) -> dict[str, Tensor]:
    """Views of each catalogue picture, decoded once, and its annotations.

    Parameters
    ----------
    encoded : pictures and records
    decoder : Decoder or ItemNumbers
    views : int
        Augmented views of each picture.
    annotate : records -> dict of tensors, optional
        What an objective wants to know of the pictures beyond themselves.
    copy_of : mapping
        Item numbers -> the first of their near-duplicates.
    """
    pictures, records = encoded
    items = [record["item"] for record in records]
    return {
        "images": decoder.views(pictures, items, views),
        **named(items * views, copy_of),
        **(annotate(records) if annotate else {}),
    }
