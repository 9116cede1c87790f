"""The cells of a comparison: CTR models trained once and kept on disk: an interrupted comparison continues."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from data_tools.common.files import check_digests, digest, read_json, whole_folder, write_json
from data_tools.common.plugins import changed
from data_tools.common.provenance import commit, versions
from data_tools.common.shared_memory import check_shared_memory
from data_tools.common.stopping import stop_with_parent
from data_tools.common.system import peak_memory
from data_tools.tables.here import here
from data_tools.tables.table import read_table
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.training.fit import fit
from downstream.training.settings import TrainingSettings

# Raise it when a change of the program, or of a default, changes what a cell's settings mean: kept cells are then made
# again.
CELL_VERSION = 2
SCORES = "test_scores.npy"


@dataclass(frozen=True)
class Cell:
    """One CTR training of a comparison.

    Attributes
    ----------
    source, form, model : str
        Names; the form of IDs only is "none".
    seed : int
        Of the CTR training.
    table : Path or None
        Embedding table, or None.
    training : TrainingSettings
        Settings of the CTR training.
    encoder : int
        Pre-training seed of the table: its place among those of its source.
    """

    source: str
    form: str
    model: str
    seed: int
    table: Path | None
    training: TrainingSettings
    encoder: int = 0

    @property
    def group(self) -> tuple[str, str, str]:
        """Source, form and model: the cells of one group differ in seeds alone."""
        return self.source, self.form, self.model

    def names(self) -> dict[str, str | int]:
        """What tells this cell from the others of its comparison."""
        own = {"source": self.source, "form": self.form, "model": self.model}
        return own | {"encoder": self.encoder, "seed": self.seed}


@dataclass(frozen=True)
class Row:
    """A finished cell: what is written of it (``row.json``) and its scores of the test split (float32)."""

    cell: Cell
    record: dict[str, Any]
    test_scores: np.ndarray


table_once = lru_cache(maxsize=4)(read_table)


@lru_cache
def table_digest(path: Path) -> str:
    """Digest of a table's files. Reading it stops a comparison before any training where it cannot be read."""
    known = table_once(path).info.get("parts", {})
    if len(known) == 1:  # read_table has just verified the digest of this file
        return next(iter(known.values()))
    path = here(path)
    return digest(sorted(path.glob("part-*.parquet")) if path.is_dir() else [path])


def cell_digest(cell: Cell, data: CTRData) -> str:
    """What decides a cell's outcome, in 24 hexadecimal characters."""
    # What is at its default is left out: an option added later leaves the digests as they were.
    settings = {one.name: changed(getattr(cell.training, one.name)) for one in fields(cell.training)}
    if cell.table is None:
        del settings["image"]
    decisive = {
        "version": CELL_VERSION,
        "dataset": data.dataset.info["fingerprint"],
        "settings": settings,
        "seed": cell.seed,
        "table": table_digest(cell.table) if cell.table else None,
    }
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=12).hexdigest()


def _run(cell: Cell, folder: Path, data: CTRData, progress: Progress | None = None) -> None:
    if folder.exists():  # another comparison that shares the cache has made it meanwhile
        return
    table = table_once(cell.table) if cell.table else None
    result = fit(data, table, cell.training, cell.seed, progress=progress)
    record = {
        "cell": cell.names(),
        "table": table.info if table else None,
        **result.record(),
        "peak_memory_mib": peak_memory(),
        "commit": commit(),
        "versions": versions(),
    }
    with whole_folder(folder, overwrite=True) as scratch:  # whoever runs the same cell at once finds the same
        np.save(scratch / SCORES, result.test_scores)
        write_json(scratch / "row.json", {**record, "scores": digest([scratch / SCORES])})


_loaded = lru_cache(maxsize=1)(load_ctr_data)


def _run_in_worker(cell: Cell, folder: Path, dataset: Path) -> None:
    """Run a cell in another process, which loads the data once for all its cells."""
    _run(cell, folder, _loaded(dataset, cell.training.data))


def _run_missing(missing: dict[Path, Cell], data: CTRData, workers: int, progress: Progress) -> Iterator[Cell]:
    """Run cells in this process or in several; yields each when it is done."""
    if workers == 1:
        for folder, cell in missing.items():
            _run(cell, folder, data, progress)
            yield cell
        return
    check_shared_memory("--workers 1")
    context, most = multiprocessing.get_context("spawn"), min(workers, max(len(missing), 1))
    with ProcessPoolExecutor(most, context, initializer=stop_with_parent) as pool:
        running = {
            pool.submit(_run_in_worker, cell, folder, data.dataset.place): cell for folder, cell in missing.items()
        }
        try:
            for done in as_completed(running):
                done.result()
                yield running[done]
        finally:
            # Interrupted or failed: what has not begun is not begun.
            pool.shutdown(wait=True, cancel_futures=True)


def run_cells(cells: list[Cell], cache: Path, data: CTRData, workers: int, progress: Progress) -> list[Row]:
    """All cells' rows in the order given; what ``cache`` holds already is not run again.

    Parameters
    ----------
    data : CTRData
        Loaded with the data settings that all cells share.
    workers : int
        Processes that run cells side by side; 1 is this one.
    """
    folders = [cache / cell_digest(cell, data) for cell in cells]
    missing = {folder: cell for folder, cell in zip(folders, cells, strict=True) if not folder.exists()}
    kept = f"cells ({len(cells) - len(missing)} cached)"
    task = progress.add_task(kept, total=len(missing))
    for cell in _run_missing(missing, data, workers, progress):
        done = f"{kept}, last {cell.source}, {cell.form}, {cell.model}, seed {cell.seed}"
        progress.update(task, advance=1, description=done)
    progress.update(task, description="cells")
    return [_read(cell, folder) for cell, folder in zip(cells, folders, strict=True)]


def _read(cell: Cell, folder: Path) -> Row:
    record = read_json(folder / "row.json")
    if promised := record.pop("scores", None):
        check_digests({folder / SCORES: promised}, "row.json", f"remove {folder}, and the same command trains it again")
    return Row(cell, record, np.load(folder / SCORES))
