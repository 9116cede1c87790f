"""Looks at a test split: which comparisons scored it, and fresh parts of it for a headline to be confirmed on.

Every comparison of a dataset is written into ``test_looks.jsonl`` of the dataset folder, once however often it is run
again. The more differences were looked at on the same rows, the less the best of them can be believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.cli import UserError
from data_tools.common.files import read_json_lines
from downstream.comparison.cells import Row, cell_digest
from downstream.comparison.figures import frame
from downstream.comparison.spec import ComparisonSpec
from downstream.data.ctr_data import CTRData

LEDGER = "test_looks.jsonl"


def part_of_test(data: CTRData, rows: list[Row], days: Sequence[float]) -> tuple[CTRData, list[Row]]:
    """Data and rows with the impressions of some days of the test split only.

    Parameters
    ----------
    days : two floats
        From and until, in days since the test split begins.

    Raises
    ------
    UserError
        If they hold no impression, or clicks only, or none, or the log's times are no dates.
    """
    if not data.dataset.day:
        raise UserError(f"test_days is {list(days)}, but the times of {data.dataset.place} are an order: remove it")
    test = data.rows["test"]
    time = data.dataset.impressions["timestamp"].to_numpy()[test]
    since = (time - time.min()) / data.dataset.day
    kept = (since >= days[0]) & (since < days[1])
    if not kept.any() or data.click[test][kept].min() == data.click[test][kept].max():
        raise UserError(
            f"test_days {list(days)} hold {kept.sum()} impressions and {int(data.click[test][kept].sum())} clicks; the "
            f"test split covers {since.max():.2f} days: choose days with clicks and impressions without one"
        )
    part = replace(data, rows={**data.rows, "test": test[kept]})
    return part, [replace(row, test_scores=row.test_scores[kept]) for row in rows]


def register(data: CTRData, rows: list[Row], spec: ComparisonSpec, title: str, contrasts: int) -> pl.DataFrame:
    """Write a comparison into the ledger of its dataset; returns the other ones that scored the same rows.

    A dataset folder that cannot be written to keeps no ledger.
    """
    test = data.rows["test"]
    cells = sorted({cell_digest(row.cell, data) for row in rows})
    decisive = [cells, spec.baseline, spec.main, spec.ceiling, int(test[0]), int(test[-1])]
    primary = spec.primary and f"{spec.main} against {spec.primary.against}, {spec.primary.slice}"
    look: dict[str, Any] = {
        "digest": hashlib.blake2b(json.dumps(decisive).encode(), digest_size=12).hexdigest(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "title": title,
        "contrasts": contrasts,
        "primary": primary,
        "rows": [int(test[0]), int(test[-1])],
    }
    path = data.dataset.folder / LEDGER
    earlier = read_json_lines(path) if path.exists() else []
    others = [one for one in earlier if one["digest"] != look["digest"]]
    if len(others) == len(earlier):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(look, ensure_ascii=False) + "\n")
        except OSError:
            pass
    apart = (one["rows"][1] < look["rows"][0] or one["rows"][0] > look["rows"][1] for one in others)
    return frame("looks", [one for one, disjoint in zip(others, apart, strict=True) if not disjoint])


def covered(data: CTRData) -> str:
    """The days that the test split covers, in words; of times that are an order, its impressions."""
    if not data.dataset.day:
        return f"{len(data.rows['test']):,} impressions"
    time = data.dataset.impressions["timestamp"].to_numpy()[data.rows["test"]]
    return f"{np.ptp(time) / data.dataset.day:,.1f} days"
