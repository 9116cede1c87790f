"""Impressions of a catalogue of any size, drawn into memory: what a CTR model's batches are timed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from downstream.data.codes import FIRST_KNOWN
from downstream.data.ctr_data import CTRData
from downstream.settings import DataSettings


def impressions(size: int, among: int, count: int) -> CTRData:
    """Data of ``size`` users and items that all have IDs, with ``count`` impressions of ``among`` of each."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(among, size=(2, count))
    click, lengths = (rng.random(count) < 0.2).astype(np.float32), rng.integers(61, size=among)
    spread = np.random.default_rng(1)
    label = np.arange(among)
    if among < size:
        label = spread.permutation(spread.choice(size, among, replace=False))
    user, item = label[drawn]
    offsets = np.zeros(size + 1, dtype=np.int64)
    offsets[label + 1] = lengths
    np.cumsum(offsets, out=offsets)
    clicked = label[rng.integers(among, size=int(offsets[-1]))].astype(np.int32)
    codes = np.arange(FIRST_KNOWN, FIRST_KNOWN + size)
    nothing = np.zeros(size, dtype=np.int64)
    sizes = {"user": FIRST_KNOWN + size, "item": FIRST_KNOWN + size, "category": FIRST_KNOWN, "words": FIRST_KNOWN}
    return CTRData(
        dataset=None,
        settings=DataSettings(history=50),
        home=Path(),
        click=click,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        clicks_before=(offsets[user + 1] - offsets[user]).astype(np.int32),
        scene=None,
        conversion=None,
        clicked=clicked,
        offsets=offsets,
        rows={"train": np.arange(count)},
        warm=np.ones(size, dtype=bool),
        user_code=codes,
        item_code=codes,
        category_code=nothing,
        words=nothing[:, None],
        sizes=sizes,
    )
