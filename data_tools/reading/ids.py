"""Ids that programs stored as other types than text or integers."""

from __future__ import annotations

import polars as pl

from data_tools.common.floats import MOST_EXACT


def whole_ids(frame: pl.DataFrame, name: str, where: str) -> tuple[pl.DataFrame, list[str]]:
    """Rows with ids of text or of integers where they are of another type that holds such, and what was done.

    Parameters
    ----------
    frame : polars.DataFrame
    name : str
        The column of ids.
    where : str
        What the rows are of, for what is said.
    """
    ids, notes = frame[name], []
    kind = ids.dtype
    if kind in (pl.Categorical, pl.Enum, pl.Binary):
        ids = ids.cast(pl.String)
    elif kind.is_decimal() or kind.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        most = MOST_EXACT[4 if kind == pl.Float32 else 8]
        if not (whole.cast(kind, strict=False).ne_missing(ids) | (whole.abs() > most)).any():
            ids, notes = whole, [f"the {name}s of {where}, {kind}, are all whole numbers and read as such"]
        elif kind.is_decimal() and kind.scale == 0:
            ids = ids.cast(pl.String)
    elif kind == pl.String and len(ids) and ids.drop_nulls().str.contains(r"^-?[0-9]+\.0+$").all():
        ids, notes = ids.str.replace(r"\.0+$", ""), [f"the {name}s of {where} all end in .0, which is left out"]
    return frame.with_columns(ids.alias(name)), notes
