"""Mean and standard deviation over seeds, as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_and_spread(values: Sequence[float | None], digits: int = 4) -> str:
    """``0.6250 ± 0.0120``: mean and, of several values, their sample standard deviation.

    Returns
    -------
    str
        "–" without values, or where one is unknown.
    """
    if not values or None in values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"
