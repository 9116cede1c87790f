"""GAUC of one million impressions: our one sort against FuxiCTR's processes and a loop with scikit-learn.

    python tests/benchmarks/gauc.py --peer_python PEER/bin/python --out results/benchmarks/gauc.json

PEER is a virtual environment with fuxictr, made beside the project's own (`pip install fuxictr`). All three compute the
impression-weighted GAUC of the same arrays; the values have to agree to 1e-9.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import Ratio, finish
from sklearn.metrics import roc_auc_score

from data_tools.common.cli import UserError, parse_settings, run_command
from downstream.statistics.metrics import gauc

PEER = """
import json, sys, time
import numpy as np
import fuxictr
from fuxictr.metrics import evaluate_metrics
if __name__ == "__main__":
    held = np.load(sys.argv[1])
    start = time.perf_counter()
    found = evaluate_metrics(held["click"], held["score"], ["gAUC"], held["user"])["gAUC"]
    print(json.dumps([float(found), time.perf_counter() - start, fuxictr.__version__]))
"""


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    peer_python : interpreter of an environment that has fuxictr; without one it is left out
    impressions, users : size of the arrays
    repeats : of our own, which takes a fraction of a second; the median counts
    out : file of the figures; none by default
    """

    peer_python: str | None = None
    impressions: int = 1_000_000
    users: int = 100_000
    repeats: int = 5
    out: str | None = None


def arrays(impressions: int, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clicks, scores and users whose activity is skewed, a tenth of the scores tied."""
    rng = np.random.default_rng(0)
    user = (users * rng.random(impressions) ** 2).astype(np.int64)
    score = np.where(rng.random(impressions) < 0.1, 0.25, rng.random(impressions))
    return (rng.random(impressions) < 0.1 + 0.3 * score).astype(np.int64), score, user


def timed(run) -> tuple[float, float]:
    start = time.perf_counter()
    value = run()
    return value, time.perf_counter() - start


def loop(click: np.ndarray, score: np.ndarray, user: np.ndarray) -> float:
    """scikit-learn's AUC of one user after the other, from one sort by user."""
    order = np.argsort(user, kind="stable")
    cuts = np.flatnonzero(np.diff(user[order])) + 1
    total = norm = 0.0
    for own in np.split(order, cuts):
        if 0 < click[own].sum() < len(own):
            total += len(own) * roc_auc_score(click[own], score[own])
            norm += len(own)
    return total / norm


def peer(python: str, *columns: np.ndarray) -> tuple[float, float, str]:
    """Value, seconds and version of FuxiCTR's."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/arrays.npz", **dict(zip(("click", "score", "user"), columns, strict=True)))
        Path(folder, "peer.py").write_text(PEER)
        done = subprocess.run([python, f"{folder}/peer.py", f"{folder}/arrays.npz"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{python} could not run fuxictr:\n{done.stderr[-800:]}")
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    columns = arrays(settings.impressions, settings.users)
    ours = [timed(lambda: gauc(*columns)) for _ in range(settings.repeats)]
    value, seconds = ours[0][0], float(np.median([one[1] for one in ours]))
    found = {"ours": {"value": value, "seconds": seconds}}
    theirs, took = timed(lambda: loop(*columns))
    found["scikit-learn, a user at a time"] = {"value": theirs, "seconds": took}
    if settings.peer_python:
        theirs, took, version = peer(settings.peer_python, *columns)
        found[f"FuxiCTR {version}"] = {"value": theirs, "seconds": took}
    for one in found.values():
        one["difference"] = abs(one["value"] - value)
    if max(one["difference"] for one in found.values()) > 1e-9:
        raise UserError("the values differ by more than 1e-9")
    (_, ours), *others = ((name, settings.impressions / one["seconds"]) for name, one in found.items())
    finish(settings, {"found": found}, [Ratio("impressions a second", ours, rate, name) for name, rate in others])


if __name__ == "__main__":
    run_command(main)
