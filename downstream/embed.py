"""Compute the embeddings of a feature store's items ahead, for serving.

    python -m downstream.embed --run RUN --store STORE --out TABLE

RUN is a run of ``downstream.train`` with an image server. TABLE gets the embedding of every item of STORE. Items that
are appended to the store later are embedded on request (``downstream.ams.serving.Serving``), or with the next table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_tools.common.checks import Checked
from data_tools.common.cli import parse_settings, run_command
from data_tools.common.files import digest
from data_tools.tables.table import read_table
from downstream.ams.feature_store import open_store
from downstream.ams.serving import precompute, read_model


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """A table of embeddings.

    Attributes
    ----------
    run : str
        Run of downstream.train with an image server.
    store : str
        The feature store.
    out : str
        Table to make; must not exist.
    """

    run: str
    store: str
    out: str


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    model, store = read_model(settings.run), open_store(settings.store)
    info = {"encoder": "embedding model of an image server", "normalised": False, "store": store.info}
    checkpoint = digest([Path(settings.run) / "model.safetensors"])
    precompute(model, store, settings.out, {**info, "checkpoint": checkpoint})
    table = read_table(settings.out)
    Console().print(f"{settings.out}: {len(table.ids):,} items, {table.vectors.shape[1]} numbers each")


if __name__ == "__main__":
    run_command(main)
