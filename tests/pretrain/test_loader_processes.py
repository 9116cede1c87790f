"""How many processes load pictures: by cores, and by how much there is to load."""

import errno
import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import IterableDataset

from data_tools.common.errors import UserError
from data_tools.sharding.read import open_shards
from pretrain.data import workers
from pretrain.data.stream import training_workers
from pretrain.data.workers import Loader, loader_processes
from pretrain.settings import Batch


@pytest.fixture
def cores(monkeypatch):
    """A machine without a GPU whose cores are set."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda count: monkeypatch.setattr(workers, "own_cores", lambda: count)


@pytest.mark.parametrize(
    ("count", "light", "expected"), [(1, False, 0), (2, False, 2), (2, True, 0), (3, True, 3), (16, False, 16)]
)
def test_two_cores_load_in_other_processes_only_if_loading_is_heavy(cores, count, light, expected):
    cores(count)
    assert loader_processes(None, light=light) == expected
    assert loader_processes(5, light=light) == 5


def test_training_loads_little_where_all_pictures_are_kept_decoded(cores, tiny_world):
    cores(2)
    shards = open_shards(tiny_world / "shards")
    assert training_workers(shards, Batch(cache_mb=256), 32) == 0
    assert training_workers(shards, Batch(cache_mb=0.1), 32) == 2
    shards.index["settings"]["pictures"] = "decoded"
    assert training_workers(shards, Batch(cache_mb=0), 32) == 0


def test_a_gpu_always_waits_for_processes(cores, monkeypatch):
    cores(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loader_processes(None, light=True) == 2


class Numbers(IterableDataset):
    """Batches as trainings have them; with a place to be lost at."""

    def __init__(self, lost_at=None):
        self.lost_at = lost_at

    def __iter__(self):
        for number in range(4):
            if number == self.lost_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"images": torch.full((8, 3), number), "none": torch.zeros(0), "few": [torch.ones(1)]}


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_come_as_they_were_made(processes):
    found = sorted(int(batch["images"].sum()) for batch in Loader(Numbers(), num_workers=processes))
    assert found == sorted([0, 24, 48, 72] * max(processes, 1))


@pytest.mark.filterwarnings("ignore:This DataLoader")
def test_too_little_shared_memory_ends_in_one_message(monkeypatch):
    """As of a container with 64 MB of it: torch's own error was in a thread, and the training waited for ever."""

    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert len(list(Loader(Numbers()))) == 4
    with pytest.raises(UserError, match=r"/dev/shm has no room for a batch; .*--shm-size.*or --batch.workers 0"):
        list(Loader(Numbers(), num_workers=1))


def test_no_shared_memory_ends_in_one_message(monkeypatch):
    def missing():
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Lock", missing)
    assert len(list(Loader(Numbers()))) == 4
    with pytest.raises(UserError, match=r"cannot share memory in /dev/shm: .*or --batch.workers 0"):
        list(Loader(Numbers(), num_workers=1))


@pytest.mark.filterwarnings("ignore:This DataLoader")
def test_a_loader_process_that_was_killed_ends_in_one_message():
    with pytest.raises(UserError, match=r"a loader process was lost .*give the machine or container more memory"):
        list(Loader(Numbers(lost_at=2), num_workers=1))
