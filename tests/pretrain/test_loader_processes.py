"""How many processes load pictures: by cores, and by how much there is to load."""

import pytest
import torch

from data_tools.sharding.read import open_shards
from pretrain.data import workers
from pretrain.data.stream import training_workers
from pretrain.data.workers import loader_processes
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
