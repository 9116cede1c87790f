"""A lost process is named by the others in time; a bad feature file is named by all before the first step."""

import os
import signal
import socket
import time

import pytest
import torch.distributed as dist
from ams_group import SMALL, run_group, start_group

from data_tools.common.cli import UserError, run_command
from downstream.ams.feature_store import open_store
from downstream.ams.heartbeat import KEEPER, Heartbeat, all_gather_text, report_lost_ranks
from downstream.ams.paper.workload import Workload, build
from downstream.settings import ServerSettings

WORK = Workload(**SMALL)
LIMIT = 2.0


def steps_for_ever(rank, processes, folder):
    """Train until something breaks; what is said goes to a file, as it would to the terminal."""
    os.dup2(os.open(f"{folder}/said-{rank}", os.O_CREAT | os.O_WRONLY), 2)

    def train():
        with report_lost_ranks(LIMIT):
            model = build(WORK, open_store(f"{folder}/store"), ServerSettings("ams", timeout=LIMIT))
            for step, batch in enumerate(WORK.batches(rank)):
                model(batch).backward()
                if step == 3:
                    open(f"{folder}/ready-{rank}", "w").close()
                time.sleep(0.01)

    run_command(train)


@pytest.mark.parametrize(("lost", "blow"), [(2, signal.SIGKILL), (0, signal.SIGSTOP)], ids=["killed", "silent"])
def test_a_lost_process_is_named_by_all_others_in_time(tmp_path, lost, blow):
    """Killed, or silent; the first one keeps the store through which the others would hear of it."""
    WORK.make_store(tmp_path / "store")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        rendezvous = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    group = start_group(steps_for_ever, 3, rendezvous, str(tmp_path)).processes
    try:
        deadline = time.monotonic() + 60
        while not all((tmp_path / f"ready-{rank}").exists() for rank in range(3)):
            assert time.monotonic() < deadline and all(process.is_alive() for process in group)
            time.sleep(0.05)
        os.kill(group[lost].pid, blow)
        struck = time.monotonic()
        for rank, process in enumerate(group):
            if rank != lost:
                process.join(10 * LIMIT)
                said = (tmp_path / f"said-{rank}").read_text()
                assert f"error: rank {rank}: no heartbeat from rank {lost} of 3" in said, said
                assert "Traceback" not in said
                assert process.exitcode == 1
        assert time.monotonic() - struck < 5 * LIMIT  # on a machine that others use too
    finally:
        for process in group:
            process.kill()
            process.join()


@pytest.mark.parametrize(
    ("since_listening", "since_heard", "silent"),
    [(0.1, 0.5, []), (0.1, 2.5, [2]), (1.8, 2.1, []), (2.1, 2.4, [KEEPER])],
    ids=["both there", "one silent", "deaf for a while", "deaf for long"],
)
def test_nobody_is_missed_for_the_time_in_which_nobody_could_be_heard(since_listening, since_heard, silent):
    now = time.monotonic()
    heartbeat = object.__new__(Heartbeat)  # no processes, no threads: only what one has heard
    heartbeat.rank, heartbeat.listened = 1, now - since_listening
    heartbeat.heard = {0: (b"9", now - since_listening), 1: (b"9", now), 2: (b"8", now - since_heard)}
    assert heartbeat.silent(LIMIT) == silent


def bad_file(rank, processes, folder):
    with pytest.raises(UserError, match=r"process 1: .*part-00003.bin has 1 bytes"):
        build(WORK, open_store(f"{folder}/store"), ServerSettings("ams"))
    assert dist.get_world_size() == 2


def test_all_processes_name_the_file_that_one_of_them_lacks(tmp_path):
    WORK.make_store(tmp_path / "store")
    (tmp_path / "store" / "part-00003.bin").write_bytes(b"x")
    run_group(bad_file, 2, str(tmp_path))


def test_a_single_process_waits_for_nobody():
    with pytest.raises(RuntimeError, match="its own"), report_lost_ranks(1.0):
        raise RuntimeError("its own fault")
    assert all_gather_text("anything", "word") == ["word"]
