"""A dataset's items with nearly the same picture: found once, counted, and written as one more table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from data_tools.common.parquet import scan_parquet
from data_tools.dataset.schema import SPLITS
from data_tools.reading.near_duplicates import first_alike_of


def write_near_duplicates(catalogue: pl.DataFrame, folder: Path, distance: int) -> dict[str, int]:
    """Write ``near_duplicates.parquet`` of a dataset folder whose pictures and impressions are there; what it counts.

    Of items with several pictures, the first are compared.
    """
    first = first_alike_of(folder, catalogue["image"].to_list(), distance)
    several = sharing(first)
    table = {"item": several.astype(np.int32), "first": first[several].astype(np.int32)}
    pl.DataFrame(table).write_parquet(folder / "near_duplicates.parquet")
    shown = scan_parquet(folder / "impressions.parquet").group_by("item").agg((pl.col("split") == SPLITS[0]).any())
    item, trained = (column.to_numpy() for column in shown.collect(engine="streaming"))
    cold = item[~trained]
    return {
        "items_with_near_duplicates": len(several),
        "pictures_with_near_duplicates": len(np.unique(first[several])),
        "cold_items_like_trained_ones": int(like_any(first, item[trained])[cold].sum()),
    }


def sharing(first: np.ndarray) -> np.ndarray:
    """The items that share nearly their picture with others, int64, ascending; ``first`` as for :func:`like_any`."""
    return np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1)


def like_any(first: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Whether items are among some, or near-duplicates of one of them, bool (items,).

    Parameters
    ----------
    first : integer array (items,), see :attr:`data_tools.dataset.schema.Dataset.first_alike`
    items : integer array, or bool array (items,)
    """
    found = np.zeros(len(first), bool)
    found[first[items]] = True
    return found[first]
