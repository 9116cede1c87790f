"""Recall of a two-tower model: how often the clicked item is among the k nearest of the whole catalogue.

    python -m downstream.retrieval --run RUN

RUN is a run of ``downstream.train`` with a model of two towers (dssm, dqm). Prints recall@k beside that of the most
clicked items, which are the same for everybody, and writes RUN/retrieval.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import write_json
from data_tools.common.provenance import made_by
from downstream.data.ctr_data import CTRData
from downstream.models.towers import Towers, catalogue_vectors
from downstream.training.saved_runs import load_run


@dataclass
class Settings:
    """Recall@k of a trained two-tower model.

    Attributes:
        run: Run folder of downstream.train.
        k: Numbers of items retrieved.
        clicks: Test clicks that are looked up, spread evenly over the test split.
    """

    run: str
    k: tuple[int, ...] = (10, 50, 100)
    clicks: int = 5000


def nearest(query: np.ndarray, catalogue: np.ndarray, k: int) -> np.ndarray:
    """Positions (Q, k) of the catalogue's vectors (M, d) of largest inner product with each query (Q, d), exactly."""
    index = faiss.IndexFlatIP(catalogue.shape[1])
    index.add(catalogue)
    return index.search(query, min(k, len(catalogue)))[1]


@torch.inference_mode()
def user_queries(model: Towers, data: CTRData, rows: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Vectors of the users of some impressions at their times: float32 (len(rows), d)."""
    model.eval()
    parts = [
        model.user_vectors({name: torch.from_numpy(values) for name, values in data.batch(part).items()})
        for part in np.split(rows, range(chunk, len(rows), chunk))
    ]
    return torch.cat(parts).numpy()


def recall(found: np.ndarray, wanted: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """k -> share of the rows whose wanted item is among the first k found: (Q, K), (Q,)."""
    hit = found == wanted[:, None]
    return {k: float(hit[:, :k].any(axis=1).mean()) for k in ks}


def retrieve(model: Towers, data: CTRData, rows: np.ndarray, ks: Sequence[int]) -> dict[str, dict[int, float]]:
    """Recall@k of the model and of the items most clicked in training, over all items of the dataset."""
    everything = np.arange(len(data.item_code))
    found = nearest(user_queries(model, data, rows), catalogue_vectors(model, data, everything), max(ks))
    trained = data.rows["train"]
    clicks = np.bincount(data.item[trained], weights=data.click[trained], minlength=len(everything))
    popular = np.argsort(-clicks, kind="stable")[: max(ks)]
    wanted = data.item[rows]
    return {
        "model": recall(found, wanted, ks),
        "most clicked": recall(np.broadcast_to(popular, (len(rows), len(popular))), wanted, ks),
    }


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    model, data, _ = load_run(settings.run)
    if not isinstance(model, Towers):
        raise UserError(f"{settings.run} holds no model of two towers; train one with --model.name dssm or dqm")
    test = data.rows["test"]
    clicked = test[data.click[test] == 1]
    rows = clicked[np.unique(np.linspace(0, len(clicked) - 1, settings.clicks).astype(int))]
    found = retrieve(model, data, rows, settings.k)
    figures = {"recall": found, "clicks": len(rows), "items": len(data.item_code), "made_by": made_by()}
    write_json(Path(settings.run) / "retrieval.json", figures)
    printed = Table(f"{len(rows):,} test clicks, {len(data.item_code):,} items", *(f"recall@{k}" for k in settings.k))
    for name, values in found.items():
        printed.add_row(name, *(f"{values[k]:.4f}" for k in settings.k))
    Console().print(printed)


if __name__ == "__main__":
    run_command(main)
