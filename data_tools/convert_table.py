"""Embedding tables of one program for another: read, checked, concatenated, and written.

The suffix says which layout it is, or ``--layout`` does; a folder without one is our own
(:mod:`data_tools.tables.table`).

npy       vectors in NAME.npy, ids in NAME.ids.npy or NAME.ids.txt
npz       the arrays ids and vectors (also read: key and value, any two that fit together, an array for each item)
h5        the data sets key and value (as npz are read too, in any group; a data set for each item)
parquet   item_id and embedding, a list (also read: key and value; lists as text; a column a dimension; folders)
csv       item_id and a column for each dimension (as parquet, and without a header, are read too); tsv as well
torch     NAME.pt, a dict of ids and vectors (a vector for each id, and a table with ids in a file, are read too)
safetensors  one tensor, ids in a file as for npy (a tensor for each item, or two that fit together, are read too)
faiss     NAME.faiss or NAME.index; ids inside, or in a file as for npy
fuxictr   a pretrained_emb of FuxiCTR: key and value in .h5, .npz or .parquet
recbole   DATASET.itememb, an atomic file for RecBole's additional_feat_suffix
mmrec     a folder with MMRec's image_feat.npy, in the order of its inner ids, and i_id_mapping.csv

python -m data_tools.convert_table --table my/table                                  # check it, show what it holds
python -m data_tools.convert_table --table my/table --out movies.itememb             # convert
python -m data_tools.convert_table --table images.npz,texts.h5 --missing drop --out both        # join
python -m data_tools.convert_table --table my/table --layout mmrec --order i_id_mapping.csv --out baby
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from rich.console import Console

from data_tools.common.cache import local
from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import refuse_existing, work_folder
from data_tools.common.lists import comma_separated
from data_tools.common.parquet import read_parquet
from data_tools.common.storage import is_url, upload
from data_tools.reading.opened import COMPRESSED
from data_tools.tables.layouts import LAYOUTS, Layout, layout_of
from data_tools.tables.peers import read_mapping
from data_tools.tables.seen import latest, seen
from data_tools.tables.table import EmbeddingTable, describe, read_table, write_table


def join(tables: Sequence[EmbeddingTable], missing: str = "stop", order: Sequence[Any] | None = None) -> EmbeddingTable:
    """Tables side by side: each item's vectors one after the other, float32 (N, sum of sizes).

    Parameters
    ----------
    tables : sequence of EmbeddingTable
        One or several.
    missing : str
        For an item that some table lacks: "stop", "drop" it, or put "zero" or the table's "mean" there.
    order : sequence, optional
        The items wanted, by default those of all tables in order of appearance.

    Raises
    ------
    UserError
        If an item is missing and ``missing`` is "stop".
    """
    wanted = list(order) if order is not None else list({str(item): item for t in tables for item in t.ids}.values())
    looked_up = [table.lookup(wanted) for table in tables]
    lacking = [int((~found).sum()) for _, found in looked_up]
    if sum(lacking) and missing == "stop":
        first = [wanted[row] for row in np.flatnonzero(~np.all([found for _, found in looked_up], axis=0))[:5]]
        raise UserError(
            f"of {len(wanted):,} items the tables lack {lacking}, for example {first}; leave such items out with "
            "--missing drop, or fill them with --missing zero or --missing mean"
        )
    if missing == "mean":
        for table, (vectors, found) in zip(tables, looked_up, strict=True):
            vectors[~found] = table.vectors.mean(axis=0)
    vectors = np.concatenate([vectors for vectors, _ in looked_up], axis=1)
    kept = np.all([found for _, found in looked_up], axis=0) | (missing != "drop")
    ids = [item for item, keep in zip(wanted, kept, strict=True) if keep]
    notes = tuple(note for table in tables for note in table.notes)
    if len(tables) == 1:
        return EmbeddingTable(ids, vectors[kept], tables[0].info, notes)
    info = {"joined": [table.info for table in tables], "saw_until": latest(seen(table.info) for table in tables)}
    return EmbeddingTable(ids, vectors[kept], info, notes)


@dataclass(frozen=True)
class Settings(Checked):
    """Check, join and convert embedding tables.

    Attributes
    ----------
    table : str
        Table to read; several, separated by commas, are joined side by side.
    out : str or null
        File or folder to write; null only says what the table holds.
    layout : str or null
        Layout to write, where the suffix of out does not tell; a folder without one gets our own.
    order : str or null
        Items wanted and their order: a dataset's items.parquet, or MMRec's i_id_mapping.csv.
    missing : "stop", "drop", "zero" or "mean"
        What to do about an item that some table lacks: stop, drop it, or fill in zero or the table's mean.
    dtype : "float32" or "float16"
        Of the vectors written.
    saw_until : int | "nothing" or null
        Latest time, in the log's unit, of what the vectors were learned from, or "nothing" where they saw no
        log; written into a table of our own layout, so that a comparison can tell whether they saw the test range.
        null keeps what the tables say.
    """

    table: str
    out: str | None = None
    layout: str | None = None
    order: str | None = None
    missing: Literal["stop", "drop", "zero", "mean"] = "stop"
    dtype: Literal["float32", "float16"] = "float32"
    saw_until: int | Literal["nothing"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "mmrec" and self.order and self.missing == "drop":
            raise UserError("MMRec needs a row for every inner id: fill the missing ones with --missing mean or zero")


def convert(settings: Settings) -> EmbeddingTable:
    """Read, join, order and, where ``out`` is given, write; returns the table.

    Raises
    ------
    UserError
        If a table is faulty (see :func:`read_table`) or lacks items, or ``out`` exists.
    """
    order = _read_order(Path(settings.order)) if settings.order else None
    paths = [settings.table] if Path(settings.table).exists() else list(filter(None, comma_separated(settings.table)))
    table = join([read_table(path) for path in paths], settings.missing, order)
    if not settings.out:
        return table
    out, vectors = Path(settings.out), table.vectors.astype(settings.dtype)
    if not np.isfinite(vectors).all():
        raise UserError(f"values up to {np.abs(table.vectors).max():g} do not fit {settings.dtype}; write float32")
    if out.suffix.lower() in COMPRESSED:
        raise UserError(
            f"{out}: tables are not written compressed; leave out {out.suffix}, and compress the file afterwards"
        )
    layout = layout_of(out, settings.layout)
    if layout is None:
        own = {name: value for name, value in table.info.items() if name not in (*describe(0, 0, ""), "parts")}
        own |= {} if settings.saw_until is None else {"saw_until": settings.saw_until}
        write_table(out, table.ids, vectors, own)
        return table
    _write(LAYOUTS[layout], out, table, vectors)
    return table


def _write(layout: Layout, out: Path, table: EmbeddingTable, vectors: np.ndarray) -> None:
    """Write the table under a temporary name, then rename it, the files that go with it first."""
    with work_folder(out) as scratch:
        layout.write(scratch / out.name, table.ids, vectors)
        files = sorted(scratch.iterdir(), key=lambda file: file.name == out.name)
        for file in files:
            refuse_existing(out.parent / file.name)
        for file in files:
            if is_url(out):
                upload(file, out.parent / file.name)
            else:
                file.rename(out.parent / file.name)


def _read_order(path: Path) -> list[Any]:
    try:
        path = local(path)
        if path.suffix == ".parquet":
            return read_parquet(path, columns=["item_id"])["item_id"].to_list()
        return read_mapping(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} cannot be read as a list of items: {error}") from None


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    table = convert(settings)
    for note in table.notes:
        Console(stderr=True).print(note, markup=False)
    norms = np.linalg.norm(table.vectors, axis=1)
    Console(highlight=False, soft_wrap=True).print(
        f"{settings.out or settings.table}: {len(table.ids):,} items, size {table.vectors.shape[1]}; norms "
        f"{norms.min():.3g} to {norms.max():.3g}, {int((norms == 0).sum()):,} vectors of zeros"
    )


if __name__ == "__main__":
    run_command(main)
