"""The layouts of embedding tables on disk: a new one is a reader, a writer, one line in ``LAYOUTS`` and one test.

A reader takes a path and gives ids (a list of N) and vectors (an array (N, D)), unchecked; a writer takes a path that
does not exist yet, ids and vectors (float16 or float32). None loads a pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.errors import UserError
from data_tools.common.hints import hint
from data_tools.reading.opened import COMPRESSED, below, compression, suffix
from data_tools.tables import files, frames, peers


@dataclass(frozen=True)
class Layout:
    """How a table is stored: a suffix (several, or none where only ``--layout`` says so), a reader and a writer."""

    suffixes: tuple[str, ...]
    read: Callable[[Path], files.Table]
    write: Callable[[Path, Sequence[Any], np.ndarray], None]


LAYOUTS = {
    "npy": Layout((".npy",), files.read_npy, files.write_npy),
    "npz": Layout((".npz",), files.read_npz, files.write_npz),
    "h5": Layout((".h5", ".hdf5"), files.read_h5, files.write_h5),
    "parquet": Layout((".parquet", ".pq"), frames.read_parquet, frames.write_parquet),
    "csv": Layout((".csv", ".tsv"), frames.read_csv, frames.write_csv),
    "torch": Layout((".pt", ".pth"), files.read_torch, files.write_torch),
    "safetensors": Layout((".safetensors",), files.read_safetensors, files.write_safetensors),
    "faiss": Layout((".faiss", ".index"), files.read_faiss, files.write_faiss),
    "fuxictr": Layout((), peers.read_fuxictr, peers.write_fuxictr),
    "recbole": Layout((".itememb",), peers.read_recbole, peers.write_recbole),
    "mmrec": Layout((), peers.read_mmrec, peers.write_mmrec),
}

# Our own folders that are no tables, by a file that each has.
FOLDERS = {
    "dataset.json": "a dataset, not a table of vectors: train on its shards and export, or name a table made elsewhere",
    "index.json": "a folder of shards, not a table of vectors: pretrain.train and pretrain.export make one of it",
    "run.json": "a run, not a table of vectors: name the folder that it was exported to, such as {0}/tables/trained",
}
BY_POLARS = """python -c 'import polars as p; p.{1}("{{0}}").write_parquet("{{0}}.parquet")'"""
# Endings of files with vectors that are not read, and what makes a table of such.
ELSEWHERE = {
    (".vec", ".txt", ".glove"): (
        "A line each, as of GloVe: tr ' ' '\\t' < {0} > {0}.tsv; of fastText and word2vec without the first line: "
        "tail -n +2 {0} | tr ' ' '\\t' > {0}.tsv"
    ),
    (".jsonl", ".ndjson"): f"Lines of item_id and embedding: {BY_POLARS.format('', 'read_ndjson')}",
    (".json",): (
        'An object of vectors by id: python -c \'import json, polars as p; d = json.load(open("{0}")); '
        'p.DataFrame({{"item_id": list(d), "embedding": list(d.values())}}).write_parquet("{0}.parquet")\''
    ),
    (".pkl", ".pickle", ".joblib"): (
        "A pickle is never loaded, as it could run anything; where it was written: numpy.savez('table.npz', "
        "ids=list(d), vectors=list(d.values()))"
    ),
    (".item", ".user"): "An atomic file with ids and vectors alone: cp {0} {0}emb",
    (".feather", ".arrow", ".ipc"): f"Make Parquet of it: {BY_POLARS.format('', 'read_ipc')}",
    (".mat", ".rds", ".xlsx"): "Write it as CSV where it comes from",
}


def layout_of(path: Path, named: str | None = None) -> str | None:
    """The layout that is named, or that the suffix tells; None for a folder of our own.

    Raises
    ------
    UserError
        If there is no such layout.
    """
    if named:
        if named not in LAYOUTS:
            raise UserError(f"unknown layout {named!r}; choose one of {', '.join(LAYOUTS)}")
        return named
    if (path / "image_feat.npy").exists():
        return "mmrec"
    known = {suffix: name for name, layout in LAYOUTS.items() for suffix in layout.suffixes}
    ending = suffix(path) or path.suffix.lower()  # of table.csv.gz that of table.csv
    if ending and not path.is_dir() and ending not in known:
        raise UserError(
            f"{path}: unknown ending {ending}; choose one of {', '.join(known)}{hint(', or name a --layout')}"
            f"{_made(path, ending)}"
        )
    ours = () if (path / "table.json").exists() else FOLDERS.items()
    if what := next((what for mark, what in ours if (path / mark).exists()), None):
        raise UserError(f"{path} is {what.format(path)}")
    if path.is_dir():  # of our own, or parts as Spark writes them
        return "parquet" if not (path / "table.json").exists() and below(path, "*.parquet") else None
    layout = known.get(ending)
    if path.suffix.lower() in COMPRESSED and path.exists() and layout != "csv" and compression(path):
        raise UserError(f"{path} is compressed, and only text may be; decompress it first")
    return layout


def _made(path: Path, ending: str) -> str:
    """How a table is made of a file in a form of other programs."""
    for endings, how in ELSEWHERE.items():
        if ending in endings:
            return f". {how.format(path)}"
    return ""
