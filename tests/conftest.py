"""What several tests share: a tiny simulated world, made once a session."""

from __future__ import annotations

import gc
import os

import fsspec
import pytest
import torch

from data_tools.common import cache
from data_tools.sharding.write import Settings as Shards
from data_tools.sharding.write import write_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World

TINY = World(items=160, users=40, requests=900, slots=4, days=10, image_size=32, strength=2.5)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests may share the machine: one thread each keeps their times steady."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def imported_is_kept():
    """What is imported by now is left out of every garbage collection: a tenth of the time of preparing small logs."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """Folder of a tiny simulated world: dataset, shards and planted."""
    return make_world(TINY, tmp_path_factory.mktemp("world"), requests_per_shard=64)


@pytest.fixture(scope="session")
def streaming_shards(tiny_world, tmp_path_factory):
    """Folder of the tiny world's shards in the layout "streaming"."""
    out = tmp_path_factory.mktemp("streaming") / "shards"
    settings = {"dataset": str(tiny_world / "dataset"), "layout": "streaming", "requests_per_shard": 64}
    write_shards(Shards(**settings, out=str(out)))
    return out


@pytest.fixture(params=["catalogue", "streaming"])
def shards(request, tiny_world, streaming_shards):
    """Folder of the tiny world's shards, in each layout."""
    return tiny_world / "shards" if request.param == "catalogue" else streaming_shards


@pytest.fixture
def url_cache(tmp_path, monkeypatch):
    """A cache folder of its own for files at URLs, and an empty memory://."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_known", {})
    monkeypatch.setattr(cache, "_kept", {})
    memory = fsspec.filesystem("memory")
    yield tmp_path / "cache"
    for descriptor, _ in cache._kept.values():
        os.close(descriptor)
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
