"""Page AUC of SimScore of embedding tables on the page views of a split, and paired differences from one of them.

    python -m tests.page_auc --shards runs/hm/shards --split test --against courier --out page_auc.json \\
        frozen=runs/hm/frozen128 courier=runs/hm/table-0,runs/hm/table-1,runs/hm/table-2

Vectors lose their table's mean first. Several tables of a name are seeds: their AUCs of a page view are averaged.
Intervals are normal, over page views: they know nothing of the spread between seeds, which is printed beside, and count
a user's page views as independent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from data_tools.common.files import write_json
from data_tools.measures.group_auc import group_auc
from data_tools.measures.simscore import sim_scores
from data_tools.sharding.read import all_records, open_shards
from data_tools.tables.table import read_table
from pretrain.evaluation.page_auc import SLICES, Requests, load_requests, slices


def by_page(requests: Requests, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """AUC of each page view by slice, nan where it is not defined, of vectors (N, D) of the requests' items."""
    scores = sim_scores(F.normalize(torch.from_numpy(vectors), dim=-1), requests.history, requests.page)
    page = torch.arange(len(scores))[:, None].expand_as(scores)
    found = {}
    for name, kept in slices(requests).items():
        result = group_auc(*(each[kept].numpy() for each in (requests.click, scores, page)))
        of_page = np.full(len(scores), np.nan)
        of_page[page[kept].unique().numpy()] = np.where(result.defined, result.auc, np.nan)
        found[name] = of_page
    return found


def centred_vectors(path: str, ids: list[str]) -> np.ndarray:
    """Vectors of items (N, D), float32, less the mean of the table's; missing ones are zeros."""
    table = read_table(path)
    vectors, found = table.lookup(ids)
    return np.where(found[:, None], vectors - table.vectors.mean(axis=0), 0).astype(np.float32)


def estimate(values: np.ndarray) -> dict[str, float | int]:
    """Mean, 95 % interval and number of the values that are defined."""
    values = values[~np.isnan(values)]
    mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5
    low, high = mean - 1.96 * error, mean + 1.96 * error
    return {"mean": float(mean), "low": float(low), "high": float(high), "page_views": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", help="NAME=TABLE,TABLE,...")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--against", required=True, help="a name among the tables")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    requests = load_requests(given.shards, given.split, image_size=64, history=given.history, limit=10**9, seed=0)
    item_id = {record["item"]: str(record["item_id"]) for record in all_records(open_shards(given.shards), "items")}
    ids = [item_id[int(item)] for item in requests.images.items]
    pages = {}
    for named in given.tables:
        name, _, paths = named.partition("=")
        pages[name] = [by_page(requests, centred_vectors(path, ids)) for path in paths.split(",")]
    figures = {}
    for name, seeds in pages.items():
        for part in SLICES:
            whole, other = (np.mean([seed[part] for seed in pages[one]], axis=0) for one in (name, given.against))
            row = {"page_auc": estimate(whole), "by_seed": [float(np.nanmean(seed[part])) for seed in seeds]}
            if name != given.against:
                row[f"{given.against} over it"] = estimate(other - whole)
            figures.setdefault(name, {})[part] = row
            print(given.split, name, part, row, flush=True)
    if given.out:
        write_json(given.out, {"split": given.split, "history": given.history, "tables": figures})


if __name__ == "__main__":
    main()
