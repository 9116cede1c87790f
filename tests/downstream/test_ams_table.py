"""Bytes counted at the collectives against a count from the batches, and the paper's setting against its table."""

import json
from pathlib import Path

import numpy as np
import pytest
from ams_group import SMALL, run_group

from downstream.ams.feature_store import open_store
from downstream.ams.paper.bytes import PAPER, Setting, all_that_travels, as_the_paper_counts
from downstream.ams.paper.measure import WARM_UP, measure
from downstream.ams.paper.workload import Workload
from downstream.ams.traffic import Traffic
from downstream.settings import ServerSettings

WORK = Workload(**SMALL)
CASES = {
    "ams": ServerSettings("ams", shard_ids=True),
    "half": ServerSettings("ams", wire="bfloat16", shard_ids=True),
    "hot": ServerSettings("ams", hot=20),
    "server": ServerSettings("server"),
    "worker": ServerSettings("worker"),
}
STEPS = 3


def measured(rank, processes, folder):
    for name, settings in CASES.items():
        found = measure(WORK, open_store(f"{folder}/store"), settings, steps=STEPS)
        if rank == 0:
            Path(folder, f"{name}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    WORK.make_store(folder / "store")
    run_group(measured, 2, str(folder))
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in CASES}


def crossing(key, owner, without=()):
    """Per step: how many of the batch's numbers belong to another process, in all; and the distinct ones by owner."""
    asked, distinct = 0, np.zeros(2)
    streams = [WORK.batches(rank) for rank in range(2)]
    for step in range(WARM_UP + STEPS):
        parts = [next(stream)[key].numpy() for stream in streams]
        if step >= WARM_UP:
            parts = [part[~np.isin(part, without)] for part in parts]
            asked += sum((owner(part) != rank).sum() for rank, part in enumerate(parts))
            distinct += np.bincount(owner(np.unique(np.concatenate(parts))), minlength=2)
    return asked, distinct / STEPS


def test_the_bytes_are_those_of_the_rows_that_cross(found):
    asked, distinct = crossing("row", lambda rows: rows % WORK.parts % 2)
    counts = 2 * 8 * STEPS  # each process tells the other how many it asks of it
    ams, server, half = (found[name]["images"]["bytes"] for name in ("ams", "server", "half"))
    assert ams["ids"] == server["ids"] == (asked * 4 + counts) // STEPS
    assert ams["embeddings"] == ams["gradients"] == asked * WORK.size * 4 // STEPS
    assert ams["features"] == server["embeddings"] == server["gradients"] == 0
    assert server["features"] == asked * WORK.width * 4 // STEPS
    assert half["embeddings"] * 2 == ams["embeddings"] and half["gradients"] * 2 == ams["gradients"]
    # Each image goes through the embedding model once, whoever asked for it.
    assert found["ams"]["images"]["work"]["embedded"] == pytest.approx(distinct.sum())
    assert found["ams"]["images"]["balance"]["embedded"] == pytest.approx(distinct.max() / distinct.mean())
    codes, _ = crossing("code", lambda codes: codes // -(-WORK.vocabulary // 2))
    assert found["ams"]["ids"]["bytes"]["embeddings"] == codes * WORK.size * 4 // STEPS
    assert found["server"]["ids"] is None


def test_hot_images_do_not_travel_and_workers_send_gradients_only(found):
    asked, _ = crossing("row", lambda rows: rows % WORK.parts % 2, without=np.arange(20))
    assert found["hot"]["images"]["bytes"]["embeddings"] == asked * WORK.size * 4 // STEPS
    worker = found["worker"]["images"]["bytes"]
    assert {kind for kind, value in worker.items() if value} == {"model"}
    assert worker["model"] == 2 * 4 * sum((i + 1) * o + 1 for i, o in [(16, 256), (256, 64), (64, 12)]) - 2 * 4


def test_what_each_process_stores(found):
    whole, item = WORK.items * WORK.width * 4, WORK.width * 4
    assert sum(found["ams"]["stored"]) == whole and found["worker"]["stored"] == [whole, whole]
    assert sum(found["hot"]["stored"]) == whole + 2 * 20 * item


def test_the_papers_setting_gives_the_papers_figures():
    counted = as_the_paper_counts(Setting())
    for strategy, (total, images) in counted.items():
        assert total == pytest.approx(PAPER[strategy][2], rel=0.01)
        assert images == pytest.approx(PAPER[strategy][3], rel=0.03)
    assert counted["server"][0] / counted["ams"][0] > 31 and counted["server"][1] / counted["ams"][1] > 100
    everything = all_that_travels(Setting())
    kinds = ("image ids", "embeddings", "gradients", "features")
    image = {name: sum(found.get(kind, 0) for kind in kinds) for name, found in everything.items()}
    assert image["server"] / image["ams"] > 100
    assert Setting().model_bytes() == 4 * 1_066_062


def test_a_ring_of_two_moves_the_whole_once():
    traffic = Traffic()
    traffic.reduced("model", 100, 2)
    traffic.exchanged("ids", 4, [1, 2, 3], [4, 5, 6], rank=1)
    assert traffic.sent == {"model": 100, "ids": 16} and traffic.received == {"model": 100, "ids": 40}
