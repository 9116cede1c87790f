"""Encoded batches -> tensors, each distinct picture decoded once. The keys are those of :mod:`pretrain.data.stream`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data_tools.sharding.read import Pictures
from pretrain.data.transforms import Decoder, ItemNumbers

# What a batch says of its catalogue records besides: tensors (n, ...) by name.
Annotate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]
# An encoded batch: pictures' bytes by item, and the records that mention them.
Encoded = tuple[Pictures, list[dict[str, Any]]]


def items_of(record: dict[str, Any]) -> list[int]:
    """The items whose pictures a record of a shard mentions."""
    return [record["item"]] if "item" in record else record["history"] + record["page"]


def places(items: list[int], index: dict[int, int]) -> list[int]:
    """Places of items among the distinct ones, which ``index`` (item -> place) gathers in order of appearance."""
    return [index.setdefault(item, len(index)) for item in items]


def request_batch(encoded: Encoded, decoder: Decoder | ItemNumbers, history: int, slots: int) -> dict[str, Tensor]:
    """Decode and lay out a batch of requests."""
    pictures, requests = encoded
    index: dict[int, int] = {}
    shape = len(requests)
    batch = {
        "history": torch.full((shape, history), -1),
        "fresh": torch.tensor([min(request["fresh"], history) for request in requests]),
        "page": torch.full((shape, slots), -1),
        "click": torch.zeros(shape, slots),
    }
    for row, request in enumerate(requests):
        clicked, shown = places(request["history"][-history:], index), places(request["page"][:slots], index)
        batch["history"][row, history - len(clicked) :] = torch.tensor(clicked, dtype=torch.long)
        batch["page"][row, : len(shown)] = torch.tensor(shown)
        batch["click"][row, : len(shown)] = torch.tensor(request["click"][:slots], dtype=torch.float32)
    batch["images"] = torch.stack([decoder.transform(decoder(pictures, item)) for item in index])
    batch["image_item"] = torch.tensor(list(index))
    return batch


def item_batch(
    encoded: Encoded, decoder: Decoder | ItemNumbers, views: int = 2, annotate: Annotate | None = None
) -> dict[str, Tensor]:
    """Views of each catalogue picture, decoded once, and what is to be said of it."""
    pictures, records = encoded
    items = [record["item"] for record in records]
    decoded = [decoder(pictures, item) for item in items]
    return {
        "images": torch.stack([decoder.transform(picture) for picture in decoded * views]),
        "image_item": torch.tensor(items * views),
        **(annotate(records) if annotate else {}),
    }
