"""The dataset's arrays and images with further items behind its own: those that a log to score has and it has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.errors import UserError
from data_tools.common.scratch import pieces, reserve, scratch_array
from data_tools.tables.table import EmbeddingTable, read_table
from downstream.ams.joining import ServedImages
from downstream.data.codes import PADDING, UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.images.joined import ItemImages, check_space


def _longer(values: np.ndarray, count: int, fill: Any, file: Path) -> np.ndarray:
    """An array with ``count`` further rows of ``fill``, memory-mapped from a file."""
    made = np.lib.format.open_memmap(file, "w+", values.dtype, (len(values) + count, *values.shape[1:]))
    with open(file, "r+b") as opened:
        reserve(opened, file.stat().st_size)
    for piece in pieces(len(values)):
        made[piece] = values[piece]
    made[len(values) :] = fill
    return made


def with_new_items(data: CTRData, count: int, work: Path) -> CTRData:
    """The data with ``count`` further items, which have the unknown code, no known category and no title."""
    if not count:
        return data
    fills = {"warm": False, "item_code": UNKNOWN, "category_code": UNKNOWN, "words": PADDING}
    arrays = {name: _longer(getattr(data, name), count, fill, work / f"{name}.npy") for name, fill in fills.items()}
    return replace(data, **arrays)


def new_vectors(path: str | Path, images: ItemImages | ServedImages | None, tuned: str) -> EmbeddingTable:
    """A table of vectors for items that the run's own table lacks.

    Raises
    ------
    UserError
        If the run can make no use of it, or it is of another size or encoder than the run's own.
    """
    if images is None:
        raise UserError(f"the run was trained without a table and makes no use of {path}; leave --table out")
    if isinstance(images, ServedImages):
        raise UserError(f"the run reads a feature store; append the new items to it, and leave --table {path} out")
    if tuned == "encoder":
        raise UserError(
            f"the run tuned its encoder (image.tune 'encoder') and takes pictures; leave --table {path} out"
        )
    table = read_table(path)
    size, own = table.vectors.shape[1], images.vectors.shape[1]
    if size != own:
        raise UserError(f"{path} has vectors of size {size}, but the run was trained on vectors of size {own}")
    check_space(table.info, images.info, str(path))
    return table


def with_new_images(
    images: ItemImages | ServedImages | None, ids: Sequence[Any], new: Sequence[str], table: EmbeddingTable | None
) -> ItemImages | ServedImages | None:
    """The images with those of further items.

    Parameters
    ----------
    images : ItemImages or ServedImages
        Of the dataset's items.
    ids : sequence
        The dataset's item ids.
    new : sequence of str
        Ids of the further items.
    table : EmbeddingTable, optional
        Vectors of these, and of the dataset's items that have none; those that have one keep it.
    """
    if images is None:
        return None
    warm = np.append(images.warm, np.zeros(len(new), dtype=bool))
    if isinstance(images, ServedImages):
        return replace(
            images,
            rows=np.append(images.rows, np.full(len(new), -1)),
            warm=warm,
            shown=np.append(images.shown, np.zeros(len(new), dtype=images.shown.dtype)),
        )
    # A form is fitted to the vectors that were there in training, and to no more: the weights were learned with it.
    warm &= (found := np.append(images.found, np.zeros(len(new), dtype=bool)))
    lacking = np.flatnonzero(~found)
    if not len(lacking):
        return images
    vectors = scratch_array((len(found), images.vectors.shape[1]))
    for piece in pieces(len(images.vectors)):
        vectors[piece] = images.vectors[piece]
    if table:
        wanted = [new[row - len(ids)] if row >= len(ids) else ids[row] for row in lacking]
        vectors[lacking], found[lacking] = table.lookup(wanted)
    pictures = [*images.pictures, *[None] * len(new)]
    return replace(images, vectors=vectors, found=found, warm=warm, pictures=pictures)
