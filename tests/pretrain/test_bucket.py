"""Data in a bucket of a real S3-compatible server: training, export and CTR training are those from local folders."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_tools.common import cache, storage
from data_tools.common.cli import UserError, parse_settings
from data_tools.prepare import Settings as PrepareSettings
from data_tools.prepare import prepare
from data_tools.sharding.write import Settings as ShardSettings
from data_tools.sharding.write import write_shards
from data_tools.tables.table import read_table
from pretrain.export import Settings as ExportSettings
from pretrain.export import export
from pretrain.settings import Settings
from pretrain.train import train

pytest.importorskip("s3fs", reason="s3:// needs the extra s3")
server = pytest.importorskip("moto.server", reason="a server for s3:// comes with the extra test")


@pytest.fixture(scope="module")
def s3():
    """Address of the server, which has the buckets ``pictures`` and ``closed``."""
    patch = pytest.MonkeyPatch()
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    storage._opened.cache_clear()
    storage.retried("s3://pictures", lambda system, path: system.mkdir(path))
    yield f"http://{host}:{port}"
    running.stop()
    patch.undo()
    storage._opened.cache_clear()


@pytest.fixture(scope="module")
def bucket(s3, tiny_world, streaming_shards):
    """The tiny world in the bucket."""
    storage.upload(tiny_world / "dataset", "s3://pictures/dataset")
    storage.upload(tiny_world / "shards", "s3://pictures/catalogue")
    storage.upload(streaming_shards, "s3://pictures/streaming")
    return "s3://pictures"


def run(data, out, workers=0):
    arguments = [
        "--data", str(data), "--out", str(out), "--encoder.image_size", "32", "--encoder.dimensions", "16",
        "--batch.rows", "16", "--batch.history", "5", "--batch.workers", str(workers), "--optim.steps", "6",
        "--optim.precision", "fp32", "--log_every", "1", "--evaluation.every", "3",
    ]  # fmt: skip
    train(parse_settings(Settings, "", arguments))
    lines = map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
    own = ("loss", "courier", "page_auc", "warm", "cold", "step")
    return [{name: line[name] for name in own if name in line} for line in lines]


@pytest.mark.parametrize("layout", ["catalogue", pytest.param("streaming", marks=pytest.mark.slow)])
def test_training_from_a_bucket_is_that_from_a_folder(
    bucket, tiny_world, streaming_shards, url_cache, tmp_path, layout
):
    folder = tiny_world / "shards" if layout == "catalogue" else streaming_shards
    mine = run(f"{bucket}/{layout}", tmp_path / "s3", workers=2)
    theirs = run(folder, tmp_path / "local")
    assert [line for line in mine if "loss" in line] and mine == theirs
    tables = {}
    for name, data in (("s3", f"{bucket}/{layout}"), ("local", str(folder))):
        out = f"s3://pictures/table-{layout}" if name == "s3" else str(tmp_path / "table")
        export(ExportSettings(data=data, out=out, run=str(tmp_path / name)))
        tables[name] = read_table(out)
    assert tables["s3"].ids == tables["local"].ids
    assert np.array_equal(tables["s3"].vectors, tables["local"].vectors)


@pytest.mark.slow
def test_a_small_cache_is_enough_for_what_is_read_from_front_to_back(
    bucket, streaming_shards, url_cache, tmp_path, monkeypatch
):
    sizes = [file.stat().st_size for file in streaming_shards.glob("*.tar")]
    valid = sum(file.stat().st_size for file in streaming_shards.glob("requests-[vt][ae]*.tar"))
    limit = max(sizes) + valid
    assert limit < 0.7 * sum(sizes)
    monkeypatch.setenv(cache.GIGABYTES, str(limit * 1e-9))
    assert run(f"{bucket}/streaming", tmp_path / "s3") == run(streaming_shards, tmp_path / "local")
    assert sum(file.stat().st_size for file in (url_cache / "files").rglob("*.tar")) <= limit
    with pytest.raises(UserError, match=r"s3://pictures/catalogue takes .*--layout streaming"):
        monkeypatch.setenv(cache.GIGABYTES, "1e-5")
        run(f"{bucket}/catalogue", tmp_path / "none")


@pytest.mark.slow
def test_a_dataset_and_shards_are_written_to_a_bucket(bucket, tiny_world, url_cache, tmp_path):
    log = pl.read_parquet(tiny_world / "dataset" / "impressions.parquet")
    log.select("user_id", "item_id", "timestamp", "click", request_id="request").write_parquet(tmp_path / "log.parquet")
    storage.upload(tmp_path / "log.parquet", "s3://pictures/log.parquet")
    items = {"items": "s3://pictures/dataset/items.parquet", "images": "s3://pictures/dataset"}
    out = Path("s3://pictures/made/dataset")
    prepare(PrepareSettings(impressions="s3://pictures/log.parquet", **items, out=out))
    names = storage.listed(out)
    assert "dataset.json" in names and sum(name.startswith("images/") for name in names) == 160
    for layout in ("catalogue", "streaming"):
        shards = f"s3://pictures/made/{layout}"
        # Written by several processes, each of which reads from the bucket.
        index = write_shards(ShardSettings(str(out), shards, layout=layout, requests_per_shard=64, workers=2))
        found = storage.listed(shards)
        promised = [*index["items"], *(file for split in index["requests"].values() for file in split)]
        assert all(found[file["file"]] == file["bytes"] for file in promised)
    with pytest.raises(UserError, match="exists already"):
        write_shards(ShardSettings(str(out), "s3://pictures/made/catalogue"))


def test_what_a_bucket_lacks_or_refuses_is_said(s3, bucket, url_cache, monkeypatch):
    with pytest.raises(UserError, match=r"s3://pictures/nothing holds no shards"):
        run("s3://pictures/nothing", "unused")
    with pytest.raises(UserError, match=r"s3://no-such-bucket/x"):
        read_table("s3://no-such-bucket/x")
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    monkeypatch.setattr(storage, "STALL", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._opened.cache_clear()
    with pytest.raises(UserError, match=r"s3://pictures/catalogue/index.json: the storage failed 5 times"):
        run("s3://pictures/catalogue", "unused")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    storage._opened.cache_clear()
    with pytest.raises(UserError, match="a run is a folder of this machine"):
        run("s3://pictures/catalogue", "s3://pictures/run")
