"""Put an embedding table's vectors into a feature store, for an image server to train over.

    python -m downstream.store --table TABLE --out STORE --parts 16

makes a store; the same command with a store that exists appends the items that it lacks (see
``downstream.ams.feature_store``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse.typing import restricted_number_type
from rich.console import Console

from data_tools.common.checks import Checked
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import refuse_url
from data_tools.tables.table import read_table
from downstream.ams.feature_store import append, create_store, open_store
from downstream.images.joined import SPACE

CHUNK = 1 << 24  # bytes written at a time
PARTS = 16
Parts = restricted_number_type("Parts", int, [(">", 0), ("<=", 10_000)])  # files, each open while one appends


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """A table put into a store.

    Attributes
    ----------
    table : str
        Embedding table whose vectors are the raw features.
    out : str
        The store; made if it does not exist, else the items that it lacks are appended.
    parts : int
        Of a new store, by default 16; at least the number of processes that will ever train on it.
    """

    table: str
    out: str
    parts: Parts | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_url(self.out, "a feature store")


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    table = read_table(settings.table)
    if not Path(settings.out).exists():
        create_store(settings.out, table.vectors.shape[1:], table.vectors.dtype, settings.parts or PARTS)
    store = open_store(settings.out)
    if settings.parts not in (None, store.parts):
        raise UserError(f"{settings.out} has {store.parts} parts and keeps them; leave --parts out")
    new = np.flatnonzero(store.rows_of(table.ids) < 0)
    step = max(CHUNK // store.item_bytes, 1)
    blocks = (new[start : start + step] for start in range(0, len(new), step))
    chunks = (([table.ids[row] for row in block], table.vectors[block]) for block in blocks)
    grown = append(store, chunks, {name: table.info[name] for name in SPACE if name in table.info})
    Console().print(
        f"{settings.out}: {len(new):,} items appended, {len(table.ids) - len(new):,} were there already; "
        f"{grown.count:,} items of {store.item_bytes:,} bytes in {grown.parts} parts"
    )


if __name__ == "__main__":
    run_command(main)
