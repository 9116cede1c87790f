"""Shards come out the same however they are written: by many processes, after a stop, in pieces."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json, write_json
from data_tools.dataset.schema import open_dataset
from data_tools.sharding import write as shards_module
from data_tools.sharding.files import files_of, read_shard, write_tar
from data_tools.sharding.jobs import finished
from data_tools.sharding.write import Settings, write_shards
from tests.edited import put_table


def write(world, out, **settings):
    write_shards(Settings(dataset=str(world / "dataset"), out=str(out), requests_per_shard=64, **settings))
    return contents(out)


def contents(folder):
    return {file.name: digest([file]) for file in Path(folder).iterdir()}


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_several_processes_write_the_same_bytes(tiny_world, streaming_shards, tmp_path, layout):
    expected = streaming_shards if layout == "streaming" else tiny_world / "shards"
    assert write(tiny_world, tmp_path / "s", workers=3, layout=layout) == contents(expected)


def test_a_question_mark_in_the_path_changes_nothing(tiny_world, tmp_path):
    assert write(tiny_world, tmp_path / "what?" / "s") == contents(tiny_world / "shards")


def test_index_of_self_contained_shards_tells_the_truth(streaming_shards):
    folder = streaming_shards
    index = read_json(folder / "index.json")
    assert {shard["file"] for shard in files_of(index)} | {"index.json"} == set(contents(folder))
    stored, distinct = 0, {}
    for shard in files_of(index):
        images, records = read_shard(folder / shard["file"])
        assert shard["digest"] == digest([folder / shard["file"]])
        assert shard["bytes"] == (folder / shard["file"]).stat().st_size
        assert shard["image_bytes"] == sum(map(len, images.values()))
        assert len(records) == shard.get("requests", shard.get("items"))
        if "requests" in shard:
            stored += sum(map(len, images.values()))
            distinct |= {item: len(data) for item, data in images.items()}
    assert index["storage"] == {
        "image_bytes_in_request_shards": stored,
        "distinct_images": len(distinct),
        "distinct_image_bytes": sum(distinct.values()),
        "overhead": stored / sum(distinct.values()),
    }


def test_index_of_a_catalogue_tells_the_truth(tiny_world):
    folder = tiny_world / "shards"
    index = read_json(folder / "index.json")
    assert {file["file"] for file in files_of(index)} | {"index.json"} == set(contents(folder))
    for file in files_of(index):
        assert file["digest"] == digest([folder / file["file"]])
        assert file["bytes"] == (folder / file["file"]).stat().st_size
    table = pl.read_parquet(folder / "items.parquet")
    assert sum(shard["items"] for shard in index["items"]) == len(table)
    assert sum(shard["image_bytes"] for shard in index["items"]) == table["length"].sum()
    for files in index["requests"].values():
        for file in files:
            rows = len(pl.read_parquet(folder / file["file"]))
            assert rows == sum(group["requests"] for group in file["groups"])
    assert index["storage"]["picture_tar_bytes"] + index["storage"]["table_bytes"] == sum(
        file["bytes"] for file in files_of(index)
    )


def test_the_estimate_of_self_contained_shards_is_near(tiny_world, tmp_path):
    said = []
    settings = Settings(dataset=str(tiny_world / "dataset"), out=str(tmp_path / "s"), layout="streaming")
    index = write_shards(settings, said.append)
    estimate = float(said[0].split(" times")[0].split()[-1])
    assert estimate == pytest.approx(index["storage"]["overhead"], rel=0.05)


class Stop(Exception):
    """In place of a signal."""


def stop():
    raise Stop


def stopped_after(jobs, monkeypatch):
    """Make the writing stop after some jobs; returns the names of the jobs that ran."""
    ran = []
    run_job = shards_module.run_job

    def run(job, *arguments):
        if len(ran) == jobs:
            raise Stop
        ran.append(job["name"])
        return run_job(job, *arguments)

    monkeypatch.setattr(shards_module, "run_job", run)
    return ran


def test_an_interrupted_job_continues(tiny_world, streaming_shards, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        first = stopped_after(5, patch)
        write(tiny_world, out, layout="streaming")
    assert not out.exists() and len(list((tmp_path / ".s.partial").glob("*.tar"))) == 5
    second = stopped_after(-1, monkeypatch)
    assert write(tiny_world, out, layout="streaming") == contents(streaming_shards)
    jobs = [shard["file"].removesuffix(".tar") for shard in files_of(read_json(out / "index.json"))]
    assert sorted(first + second) == sorted(jobs), "every job ran once"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("kind", ["*.tar", "*.parquet", "*.part"])
def test_a_file_that_was_cut_short_is_written_again(tiny_world, tmp_path, monkeypatch, kind):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopped_after(-1, patch)
        patch.setattr(shards_module, "make_index", lambda *_, **__: stop())
        write(tiny_world, tmp_path / "s")
    cut = next((tmp_path / ".s.partial").glob(kind))
    os.truncate(cut, 1000)
    assert write(tiny_world, tmp_path / "s") == contents(tiny_world / "shards")


def test_a_stopped_job_of_other_settings_starts_anew(tiny_world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopped_after(1, patch)
        write(tiny_world, tmp_path / "s", seed=1)
    assert write(tiny_world, tmp_path / "s") == contents(tiny_world / "shards")


def test_two_writers_of_one_folder_are_refused(tiny_world, tmp_path, monkeypatch):
    def nested(job, *arguments):
        with pytest.raises(UserError, match="another process is writing"):
            write(tiny_world, tmp_path / "s")
        raise Stop

    monkeypatch.setattr(shards_module, "run_job", nested)
    with pytest.raises(Stop):
        write(tiny_world, tmp_path / "s")


def test_shards_are_cut_at_their_size(tiny_world, streaming_shards, tmp_path):
    whole = read_json(streaming_shards / "index.json")
    most = max(shard["image_bytes"] for shard in whole["requests"]["train"]) // 2
    write(tiny_world, tmp_path / "s", shard_mb=most / 1e6, layout="streaming")
    index = read_json(tmp_path / "s" / "index.json")
    assert all(shard["image_bytes"] <= most for shard in files_of(index))
    assert any(shard["file"].endswith("-001.tar") for shard in index["requests"]["train"])

    def order(folder, index):
        return [
            record["request"]
            for shard in index["requests"]["train"]
            for record in read_shard(folder / shard["file"])[1]
        ]

    assert order(tmp_path / "s", index) == order(streaming_shards, whole)


def test_a_split_without_requests_has_no_shards(tiny_world, tmp_path):
    dataset = open_dataset(tiny_world / "dataset")
    (tmp_path / "dataset").mkdir()
    for file in dataset.folder.iterdir():
        (tmp_path / "dataset" / file.name).symlink_to(file)
    put_table(tmp_path / "dataset", "impressions", dataset.impressions.filter(pl.col("split") != "valid"))
    write(tmp_path, tmp_path / "s")
    index = read_json(tmp_path / "s" / "index.json")
    assert index["requests"]["valid"] == [] and index["requests"]["test"]


def test_a_picture_that_is_gone_is_named(tiny_world, tmp_path):
    dataset = open_dataset(tiny_world / "dataset")
    (tmp_path / "dataset").mkdir()
    for file in dataset.folder.iterdir():
        (tmp_path / "dataset" / file.name).symlink_to(file)
    (tmp_path / "dataset" / "images").unlink()
    with pytest.raises(UserError, match=r"images/0.jpg is listed in items.parquet but is gone"):
        write(tmp_path, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_shard_that_did_not_reach_the_disk_whole_is_not_finished(tmp_path):
    job = {"name": "items-0000"}
    assert finished(tmp_path, job) is None
    described = [write_tar(tmp_path / "items-0000.tar", [("000000001.json", b"{}"), ("000000002.json", b"{}")])]
    write_json(tmp_path / "items-0000.done", described)
    assert finished(tmp_path, job) == described
    (tmp_path / "items-0000.tar").write_bytes(bytes(described[0]["bytes"]))  # as after a power cut: its size, and zeros
    assert finished(tmp_path, job) is None
    (tmp_path / "items-0000.tar").unlink()
    assert finished(tmp_path, job) is None


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_bytes(tiny_world, tmp_path):
    arguments = ["--dataset", str(tiny_world / "dataset"), "--out", str(tmp_path / "s"), "--workers", "2"]
    command = [sys.executable, "-m", "data_tools.shards", *arguments, "--requests-per-shard", "64"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    while not any((tmp_path / ".s.partial").glob("*.done")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "s").exists()
    deadline = time.time() + 20
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout:
        assert time.time() < deadline, "a writing process outlived its parent"
        time.sleep(0.1)
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    assert contents(tmp_path / "s") == contents(tiny_world / "shards")
