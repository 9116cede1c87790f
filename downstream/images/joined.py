"""An embedding table joined to a dataset's items."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.scratch import selected
from data_tools.log.examples import alike_ids
from data_tools.tables.table import EmbeddingTable, centred
from downstream.data.ctr_data import CTRData
from downstream.data.search import HistorySearch

# What of a table's description says which space its vectors are in.
SPACE = ("size", "encoder", "preprocessing", "layer", "normalised", "weights", "checkpoint")


def check_space(info: dict[str, Any], trained_on: dict[str, Any], where: str) -> None:
    """Raise a UserError if a table is of another size or encoder than the one that a run was trained on.

    Parameters
    ----------
    info, trained_on : dict
        Descriptions of the two; of tables made elsewhere they are empty, and there is nothing to compare.
    where : str
        The table.
    """
    stated = [name for name in SPACE if name in info and name in trained_on]
    if unlike := [name for name in stated if info[name] != trained_on[name]]:
        here, there = ({name: one[name] for name in unlike} for one in (info, trained_on))
        raise UserError(f"{where} is another table than the run was trained on: {here} instead of {there}")


@dataclass(frozen=True)
class ItemImages:
    """An embedding table joined to a dataset's items.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 (items, D), memory-mapped where it is large; zeros where the table lacks the item, which a model never
        sees as a vector.
    found : numpy.ndarray
        bool (items,), whether the table has the item.
    warm : numpy.ndarray
        bool (items,), shown in training. Whatever is fitted to the vectors is fitted to these.
    info : dict
        How the table was made (see ``data_tools.tables.table``).
    folder : Path
        Of the dataset, or its URL.
    pictures : list of str or None
        File of each item's picture in that folder, None where it has none.
    """

    vectors: np.ndarray
    found: np.ndarray
    warm: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    pictures: list[str | None] = field(default_factory=list)

    @property
    def fitted(self) -> np.ndarray:
        """Vectors of the warm items (n, D), the only ones that anything may be fitted to."""
        return selected(self.vectors, np.flatnonzero(self.found & self.warm))

    def centred(self) -> ItemImages:
        """The same with vectors of length 1, less their mean over the warm items."""
        vectors = centred(self.vectors, self.found & self.warm)
        vectors[~self.found] = 0
        return replace(self, vectors=vectors)


def join_table(table: EmbeddingTable, data: CTRData) -> ItemImages:
    """Put the table's vectors in the order of the dataset's items.

    Raises
    ------
    UserError
        If the table has no item that is shown in training.
    """
    vectors, found = table.lookup(data.item_ids)
    if not (found & data.warm).any():
        alike = alike_ids(
            *(pl.Series([str(item) for item in ids], dtype=pl.String) for ids in (data.item_ids, table.ids))
        )
        raise UserError(
            f"the table (ids such as {table.ids[:3]}) has no item that is shown in training (ids such as "
            f"{data.item_ids[:3]}); " + (alike[1] if alike else "it was made from another dataset")
        )
    pictures = data.dataset.items["image"].to_list()
    return ItemImages(vectors, found, data.warm, table.info, data.dataset.place, pictures)


def search_histories(data: CTRData, images: ItemImages | None) -> CTRData:
    """The data whose batches hold a user's most similar clicks, where its settings ask for these and there is a table.

    Vectors are compared as the table has them, whatever is learned of them afterwards.
    """
    if images is None or data.settings.history_by == "recency":
        return data
    return replace(data, search=HistorySearch.over(images.vectors, images.found, data.settings.history_search))
