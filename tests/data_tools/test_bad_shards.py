"""Faults of storage under shards: each is named, with what to do, and the same command continues where it can."""

import errno
import os
import shutil

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.common import cache, storage
from data_tools.common.cli import UserError, run_command
from data_tools.common.files import digest, read_json, write_json
from data_tools.dataset.schema import Dataset
from data_tools.sharding import jobs
from data_tools.sharding import write as writing
from data_tools.sharding.read import open_shards
from data_tools.sharding.tables import write_groups
from data_tools.sharding.write import Settings, write_shards


@pytest.fixture
def folder(tiny_world, tmp_path):
    """A copy of the tiny world's shards."""
    return shutil.copytree(tiny_world / "shards", tmp_path / "shards")


@pytest.fixture
def dataset(tiny_world, tmp_path):
    """A copy of the tiny world's dataset."""
    return shutil.copytree(tiny_world / "dataset", tmp_path / "dataset")


def files(folder):
    return {path.name: digest([path]) for path in folder.iterdir()}


def test_a_tar_cut_short_is_named_before_anything_is_read(folder):
    tar = folder / "items-00000.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    with pytest.raises(UserError, match=r"items-00000.tar has \d+ bytes, the index promises \d+; copy it again"):
        open_shards(folder)


def test_a_tar_cut_short_while_it_is_read_is_named(folder):
    pictures = open_shards(folder).pictures("items")
    os.truncate(folder / "items-00000.tar", 4096)
    with pytest.raises(UserError, match=r"items-00000.tar is damaged: the picture of item \d+, .*copy it again"):
        [pictures[item] for item in np.flatnonzero(pictures.row >= 0)]


def test_places_that_do_not_fit_their_tar_are_named(folder):
    index, table = read_json(folder / "index.json"), pq.read_table(folder / "items.parquet")
    moved = table.set_column(table.column_names.index("offset"), "offset", [table["offset"].to_numpy() + 512])
    index["table"] = write_groups(folder / "items.parquet", [moved])
    write_json(folder / "index.json", index)
    pictures = open_shards(folder).pictures("items")
    with pytest.raises(UserError, match=r"items-00000.tar is damaged: the picture of item 3, \d+ bytes at \d+, is not"):
        pictures[3]


def test_a_tar_replaced_by_another_is_named(folder):
    tar = folder / "items-00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(UserError, match=r"items-00000.tar is damaged: the picture of item 3"):
        open_shards(folder).pictures("items")[3]


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_a_picture_that_changes_while_shards_are_written_is_named(dataset, tmp_path, monkeypatch, layout):
    plan = writing.make_plan

    def changed_behind(*given):
        planned = plan(*given)
        image = dataset / Dataset(dataset).items["image"][7]
        image.write_bytes(image.read_bytes() + b"more")
        return planned

    monkeypatch.setattr(writing, "make_plan", changed_behind)
    with pytest.raises(UserError, match=r"images/7.jpg changed while its shards were written; write them again"):
        write_shards(Settings(str(dataset), str(tmp_path / "s"), layout=layout))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_a_full_disk_is_named_and_the_same_command_continues(tiny_world, tmp_path, monkeypatch, capsys, layout):
    settings = Settings(str(tiny_world / "dataset"), str(tmp_path / "s"), layout=layout, items_per_shard=40)
    write_tar, written = jobs.write_tar, []

    def filling(path, members):
        if len(written) == 2:
            path.write_bytes(b"half of a tar")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path.name)
        return write_tar(path, members)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(jobs, "write_tar", filling)
        run_command(lambda: write_shards(settings))
    assert "error: the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    again = []
    monkeypatch.setattr(jobs, "write_tar", lambda path, members: (again.append(path.name), write_tar(path, members))[1])
    write_shards(settings)
    assert not set(again) & set(written), "what was finished was written again"
    other = Settings(str(tiny_world / "dataset"), str(tmp_path / "t"), layout=layout, items_per_shard=40)
    write_shards(other)
    assert files(tmp_path / "s") == files(tmp_path / "t")


def test_a_disk_that_fills_under_the_cache_is_named_at_once(url_cache, monkeypatch):
    fsspec.filesystem("memory").pipe_file("memory://bucket/x", bytes(1000))
    asked = []

    def full(*given):
        asked.append(given)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(storage, "_whole", full)
        cache.local("memory://bucket/x")
    assert len(asked) == 1 and not [path for path in url_cache.rglob("*") if path.is_file()]
    assert cache.local("memory://bucket/x").read_bytes() == bytes(1000)
