"""A process killed in the midst of DICM's training over an image server: named, and nothing lost after a restart."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from downstream.ams.feature_store import append, create_store
from downstream.ams.paper.measure import free_port


def start(*arguments):
    """Two processes of one training, as a launcher would start them on two machines."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "downstream.train", *map(str, arguments)],
            env={**os.environ, **common, **alone, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def finish(processes):
    for process in processes:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said


@pytest.mark.slow
def test_a_restart_loses_nothing(small_world, tmp_path):
    vectors = small_world.table.vectors
    store = append(
        create_store(tmp_path / "store", vectors.shape[1:], vectors.dtype, 4), [(small_world.table.ids, vectors)]
    )
    given = ["--dataset", small_world.folder, "--table", store.folder, "--server.strategy", "ams"]
    given += ["--server.shard_ids", "true", "--server.timeout", "5", "--optim.batch_size", "16"]
    given += ["--optim.epochs", "3", "--checkpoint_every", "10", "--data.history", "6"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(*given, "--out", whole))

    processes = start(*given, "--out", broken)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".broken*/training-0.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        processes[1].send_signal(signal.SIGKILL)
        said = processes[0].communicate(timeout=60)[1]
        assert processes[0].returncode == 1
        assert "rank 0: no heartbeat from rank 1 of 2" in said and "Traceback" not in said
    finally:
        for process in processes:
            process.kill()
    assert not broken.exists()
    finish(start(*given, "--out", broken))
    np.testing.assert_array_equal(np.load(broken / "test_scores.npy"), np.load(whole / "test_scores.npy"))
