"""LS-PLM on a dataset: sparsity and GAUC by penalty, and what the common-feature trick saves.

    python tests/benchmarks/lsplm.py --dataset runs/world/dataset --out results/benchmarks/lsplm.json

Features of a request, whose products are computed once for its impressions: the user, and the share of each item among
the last clicks; of an impression: item, category and title words. The plain side multiplies the same features written
out for each impression.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from lsplm_solver import Design, log_probabilities, loss_and_gradient, minimise, sparsity
from report import Ratio, finish
from rich.console import Console
from rich.progress import track
from scipy.sparse import csr_matrix, hstack

from data_tools.common.cli import parse_settings, run_command
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings
from downstream.statistics.metrics import auc, gauc


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    dataset : dataset folder
    impressions : the last so many of the training split are trained on
    regions : m
    penalties : values of lambda and beta, both the same
    steps : of the optimiser, at most
    out : file of the figures; none by default
    """

    dataset: str
    impressions: int = 30_000
    regions: int = 12
    penalties: tuple[float, ...] = (0.03, 0.1, 0.3)
    steps: int = 40
    out: str | None = None


def one_hot(codes: np.ndarray, size: int) -> csr_matrix:
    """A one in each row, at its code; of several codes a row (n, k), a one at each but 0."""
    codes = codes.reshape(len(codes), -1)
    row, slot = codes.nonzero()
    return csr_matrix((np.ones(len(row)), (row, codes[row, slot])), (len(codes), size))


def design(data: CTRData, rows: np.ndarray) -> Design:
    """Features of impressions."""
    request = data.dataset.impressions["request"].to_numpy()[rows]
    _, first, group = np.unique(request, return_index=True, return_inverse=True)
    batch = data.batch(rows[first])
    row, slot = batch["mask"].nonzero()
    share = 1 / batch["mask"].sum(axis=1)[row]
    clicked = csr_matrix((share, (row, batch["item"][batch["history"][row, slot]])), (len(first), data.sizes["item"]))
    user = one_hot(batch["user"], data.sizes["user"])
    item = data.item_batch(data.item[rows])
    parts = [one_hot(item[name], data.sizes[name]) for name in ("item", "category", "words")]
    return Design(hstack([user, clicked], "csr"), hstack(parts, "csr"), group)


def written_out(shared: Design) -> Design:
    """The same features without the trick."""
    every = hstack([shared.common[shared.group], shared.own], "csr")
    return Design(csr_matrix((1, 0)), every, np.zeros(len(shared.group), dtype=np.int64))


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """The median processor time of a call: other work on the machine does not count."""
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return float(np.median(taken))


def timed(theta: np.ndarray, of: Design, click: np.ndarray) -> dict[str, float]:
    """Seconds of X Theta with X' V, which the trick is about, and of the whole loss with its gradient."""
    values = of.product(theta)
    products = seconds(lambda: (of.product(theta), of.transposed_product(values)))
    return {"products": products, "loss and gradient": seconds(lambda: loss_and_gradient(theta, of, click))}


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    data = load_ctr_data(settings.dataset, DataSettings())
    rows, test = data.rows["train"][-settings.impressions :], data.rows["test"]
    trained, tested, click = design(data, rows), design(data, test), np.asarray(data.click[rows], dtype=np.float64)
    start = 0.1 * np.random.default_rng(0).normal(size=(trained.features, 2 * settings.regions))
    console = Console()
    shared, plain = timed(start, trained, click), timed(start, written_out(trained), click)
    lines = []
    for value in track(settings.penalties, "penalties"):
        theta, objective = minimise(start, trained, click, value, value, settings.steps)
        score = log_probabilities(tested.product(theta))[0]
        found = {"auc": auc(data.click[test], score), "gauc": gauc(data.click[test], score, data.user[test])}
        lines.append(
            {"penalty": value, "objective": objective[-1], "steps": len(objective) - 1, **sparsity(theta), **found}
        )
        console.print(lines[-1])
    side = "the features written out for each impression"
    ratios = [Ratio(f"{name} a second", 1 / taken, 1 / plain[name], side) for name, taken in shared.items()]
    finish(settings, {"seconds_shared": shared, "seconds_plain": plain, "penalties": lines}, ratios)


if __name__ == "__main__":
    run_command(main)
