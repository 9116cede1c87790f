"""Embedding tables as FuxiCTR, RecBole and MMRec read them (see :mod:`data_tools.tables.layouts`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_tools.common.cli import UserError
from data_tools.tables.files import read_h5, read_npz, write_h5, write_npz
from data_tools.tables.frames import Table, read_parquet, write_parquet


def read_fuxictr(path: Path) -> Table:
    return {".npz": read_npz, ".h5": read_h5, ".parquet": read_parquet}[_fuxictr_suffix(path)](path)


def write_fuxictr(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """A feature's ``pretrained_emb``: arrays ``key`` and ``value`` in .h5, .npz or .parquet.

    As ``load_pretrain_emb`` of ``fuxictr/preprocess/tokenizer.py`` reads them (version 2.3). It turns the keys of an
    .h5 file into text as ASCII, so that other ids need an .npz.
    """
    suffix = _fuxictr_suffix(path)
    if suffix == ".npz":
        write_npz(path, ids, vectors, ("key", "value"))
    elif suffix == ".parquet":
        write_parquet(path, ids, vectors, ("key", "value"))
    elif all(str(item).isascii() for item in ids):
        write_h5(path, ids, vectors)
    else:
        raise UserError(f"{path}: FuxiCTR reads only ASCII ids from an .h5 file; write an .npz instead")


def _fuxictr_suffix(path: Path) -> str:
    if path.suffix.lower() not in (".npz", ".h5", ".parquet"):
        raise UserError(f"{path}: FuxiCTR reads .h5, .npz and .parquet files, not {path.suffix or 'a folder'}")
    return path.suffix.lower()


def read_recbole(path: Path) -> Table:
    """An atomic file whose header names one ``:token`` field (the ids) and one ``:float_seq`` field (the vectors)."""
    with open(path, encoding="utf-8") as file:
        kinds = [field.rpartition(":")[2] for field in file.readline().rstrip("\n").split("\t")]
        if "token" not in kinds or "float_seq" not in kinds:
            raise UserError(f"{path}: its header has fields of the kinds {kinds}; must be token and float_seq")
        rows = [line.rstrip("\n").split("\t") for line in file if line.strip("\n")]
    if bad := [number for number, row in enumerate(rows, start=2) if len(row) != len(kinds)]:
        raise UserError(f"{path}, line {bad[0]}: another number of fields than the {len(kinds)} of the header")
    vectors = [np.array(row[kinds.index("float_seq")].split(), dtype=np.float32) for row in rows]
    if len(sizes := {len(vector) for vector in vectors}) > 1:
        raise UserError(f"{path}: embeddings of several sizes {sorted(sizes)}; all must have the same")
    return [row[kinds.index("token")] for row in rows], np.array(vectors)


def write_recbole(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """An atomic file ``<dataset>.itememb`` for ``additional_feat_suffix: [itememb]``.

    Its fields are ``iid:token`` and ``item_emb:float_seq``, apart by a tab, its numbers by a blank, as RecBole's
    documentation describes ("Use Additional Feature Embedding") and ``_load_feat`` of
    ``recbole/data/dataset/dataset.py`` (version 1.2) reads. RecBole's configuration needs
    ``load_col: {itememb: [iid, item_emb]}``, ``alias_of_item_id: [iid]`` and ``preload_weight: {iid: item_emb}``.
    """
    if bad := [item for item in map(str, ids) if set(item) & set('\t\r\n"')]:
        raise UserError(
            f"{path.name}: the id {bad[0]!r} holds a tab, a line break or a quote, which no atomic file can hold"
        )
    with open(path, "w", encoding="utf-8") as file:
        file.write("iid:token\titem_emb:float_seq\n")
        for item, vector in zip(ids, vectors, strict=True):
            file.write(f"{item}\t{' '.join(f'{value:.9g}' for value in vector)}\n")  # 9 digits give float32 back


def read_mmrec(path: Path) -> Table:
    """A folder with ``image_feat.npy``, rows by inner id, and ``i_id_mapping.csv``, the ids of the rows."""
    return read_mapping(path / "i_id_mapping.csv"), np.load(path / "image_feat.npy", mmap_mode="r")


def read_mapping(path: Path) -> list[str]:
    """Ids in the order of MMRec's inner ids, from ``i_id_mapping.csv`` (an id column and ``itemID``, 0 to N - 1)."""
    text = path.read_bytes().decode("utf-8")  # line breaks inside ids as they are
    mapping = pl.read_csv(text.encode(), separator="\t" if "\t" in text.partition("\n")[0] else ",", infer_schema=False)
    if "itemID" not in mapping.columns or mapping.width != 2:
        raise UserError(f"{path} has the columns {mapping.columns}; must be itemID and a column of ids")
    mapping = mapping.with_columns(pl.col("itemID").cast(pl.Int64, strict=False)).sort("itemID")
    if mapping["itemID"].to_list() != list(range(len(mapping))):
        raise UserError(
            f"{path}: itemID does not count from 0 to {len(mapping) - 1}; MMRec's rows need every number once"
        )
    return mapping[next(name for name in mapping.columns if name != "itemID")].to_list()


def write_mmrec(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    """A folder with ``image_feat.npy`` and ``i_id_mapping.csv``, to put into MMRec's data folder of the dataset.

    As ``src/common/abstract_recommender.py`` loads them (``vision_feature_file: image_feat.npy``, row i for inner item
    i) and ``preprocessing/0rating2inter.ipynb`` names them (``asin`` and ``itemID``, apart by a tab).
    """
    path.mkdir()
    np.save(path / "image_feat.npy", vectors)
    mapping = pl.DataFrame({"asin": [str(item) for item in ids], "itemID": range(len(ids))})
    mapping.write_csv(path / "i_id_mapping.csv", separator="\t")
