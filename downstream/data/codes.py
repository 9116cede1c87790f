"""Codes of a feature's values: 0 is padding, 1 is "unknown", known values start at 2."""

from __future__ import annotations

import numpy as np
import polars as pl

PADDING, UNKNOWN, FIRST_KNOWN = 0, 1, 2


def codes_of(values: pl.Series, trained: np.ndarray) -> tuple[np.ndarray, pl.Series]:
    """Codes of ``values``, and the known ones, those at the rows ``trained``, in the order of their codes."""
    known = values.filter(pl.Series(trained)).drop_nulls().unique().sort()
    codes = values.replace_strict(known, range(FIRST_KNOWN, FIRST_KNOWN + len(known)), default=UNKNOWN)
    return codes.to_numpy().astype(np.int64), known
