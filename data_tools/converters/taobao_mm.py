"""Taobao-MM (Alibaba): exposures, clicks and frozen SCL embeddings; no pixels and no times.

Format: https://taobao-mm.github.io/ and the code published with it. ``train/train-shard-*.parquet``
and ``test/test-shard-*.parquet``: label_0 (one-hot list, [0, 1] for a click), 129_1 (user), 130_1 to 130_5, 205 (item),
206 (its category), 213, 214 (further attributes of it), 150_2_180 and 151_2_180 (up to 1,000 earlier items and their
categories). ``feature_map/scl_emb_int8_p90_keys.npy`` and ``..._values.npy``: item ids and 128 int8 each, 127 for 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common.errors import UserError
from data_tools.common.parquet import engine_path
from data_tools.converters.common import Converter, Source, copy, find, query
from data_tools.dataset.read_log import Log
from data_tools.reading.opened import below


def _vectors(files: Path, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The published embeddings of some items, float16, the first of a repeated key."""
    keys = np.load(find(files, "scl_emb_int8_p90_keys.npy", "ids of the embeddings"), mmap_mode="r")
    values = np.load(find(files, "scl_emb_int8_p90_values.npy", "embeddings"), mmap_mode="r")
    if len(keys) != len(values):
        raise UserError(f"{len(keys)} ids for {len(values)} embeddings in {files}; download them again")
    rows = np.flatnonzero(np.isin(keys, items))
    ids, first = np.unique(keys[rows], return_index=True)
    vectors = (values[np.sort(rows[first])].astype(np.float32) / 127).astype(np.float16)
    ids = np.asarray(keys[np.sort(rows[first])])
    return ids, vectors, {"encoder": "SCL (Taobao-MM)", "normalised": True, "layer": "published, int8 / 127"}


class TaobaoMM(Converter):
    """Taobao-MM (Alibaba): exposures, clicks and published embeddings, no pictures.

    Exposures keep the order of the files, the published test part last; the embeddings become a table.
    """

    def read(self, files: Path, work: Path) -> Source:
        found = {part: below(files, f"{part}-shard-*.parquet") for part in ("train", "test")}
        shards = {part: list(map(engine_path, paths)) for part, paths in found.items()}
        for part, found in shards.items():
            if not found:
                raise UserError(f"{files} has no {part}-shard-*.parquet; put the owners' files there")
        log, whole = work / "log.parquet", "read_parquet(?, hive_partitioning = false)"
        exposures = f'SELECT "129_1" AS user_id, "205" AS item_id, label_0[2] AS click FROM {whole}'
        copy(exposures, log, work, [shards["train"] + shards["test"]])
        attributes = 'first("206") AS category, first("213") AS attribute_213, first("214") AS attribute_214'
        items = query(
            f'SELECT "205" AS item_id, {attributes} FROM {whole} GROUP BY 1 ORDER BY 1',
            work,
            [shards["train"] + shards["test"]],
        )
        counts = [query(f"SELECT count(*) AS n FROM {whole}", work, [found])["n"][0] for found in shards.values()]
        share = counts[0] / sum(counts)
        return Source(
            Log(log, {}),
            items,
            None,
            "Taobao-MM (Alibaba)",
            "Apache-2.0, for research",
            {"time_unit": "order", "valid_from": round(0.9 * share, 6), "test_from": round(share, 6)},
            table=_vectors(files, items["item_id"].to_numpy()),
        )
