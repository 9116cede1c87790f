"""Everything that is read and written at URLs is what it is in folders; the cache keeps to its size."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pytest
import webdataset as wds

from data_tools.common import cache, storage
from data_tools.common.cache import held, local
from data_tools.common.cli import UserError
from data_tools.common.files import digest, read_json, refuse_url, whole_file, whole_folder, write_json
from data_tools.convert_table import Settings as ConvertSettings
from data_tools.convert_table import convert
from data_tools.dataset.schema import REQUIRED, open_dataset
from data_tools.prepare import Settings as PrepareSettings
from data_tools.prepare import prepare
from data_tools.sharding.files import files_of
from data_tools.sharding.read import all_records, open_shards
from data_tools.sharding.write import Settings, write_shards
from data_tools.tables.table import read_table, write_table

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def quick(url_cache, monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.01)


def put(folder, url):
    storage.upload(folder, url)
    return url


def at(url):
    """Name -> bytes of the files below a URL."""
    return {name: storage.read(Path(url) / name) for name in storage.listed(url)}


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("form", ["folder", "tar", "glob", "by id"])
def test_a_dataset_made_of_urls_is_that_made_of_files(source, plain, form):
    inputs = {"impressions": "log.csv", "items": "items.csv", "images": ""}
    if form == "tar":
        with wds.TarWriter(str(source / "pictures.tar")) as tar:
            for file in source.glob("*.png"):
                tar.write({"__key__": file.stem, "png": file.read_bytes()})
        inputs["images"] = "pictures.tar"
    if form == "glob":
        inputs |= {"impressions": "lo*.csv", "items": "it*.csv"}
    if form == "by id":
        pl.read_csv(source / "items.csv", infer_schema=False).drop("image").write_csv(source / "items.csv")
    put(source, "memory://bucket/in")
    given = {name: f"memory://bucket/in/{place}".rstrip("/") for name, place in inputs.items()}
    out = prepare(PrepareSettings(**given, out=Path("memory://bucket/made")))
    made = open_dataset(str(out))
    for name in REQUIRED:
        table, wanted = (getattr(one, name).drop("price", strict=False) for one in (made, plain))
        assert table.equals(wanted)
    images = [name for name in made.items["image"] if name]
    assert [made.picture(name) for name in images] == [plain.picture(name) for name in images] and images
    assert not [name for name in at("memory://bucket/made") if name.startswith(".")]


def test_partitions_at_a_url_are_columns_and_what_is_hidden_is_passed_over(source):
    log = pl.read_csv(source / "log.csv", infer_schema=False)
    for name in ("_SUCCESS", ".part.csv", "user_id=a/x.csv", "user_id=b/x.csv"):
        text = log.drop("user_id").write_csv() if "=" in name else "nothing"
        MEMORY.pipe_file(f"memory://bucket/_logs/{name}", text.encode())
    given = {"items": str(source / "items.csv"), "images": str(source)}
    for number, place in enumerate(("memory://bucket/_logs", "memory://bucket/_logs/*/*.csv")):
        out = source.parent / f"dataset-{number}"
        prepare(PrepareSettings(impressions=place, **given, out=out))
        assert sorted(open_dataset(out).impressions["user_id"].unique()) == ["a", "b"]


def test_pictures_missing_or_broken_at_a_url_are_counted(source):
    (source / "03.png").unlink()
    (source / "04.png").write_bytes(b"nothing")
    put(source, "memory://bucket/in")
    given = {"impressions": str(source / "log.csv"), "items": str(source / "items.csv")}
    out = source.parent / "dataset"
    prepare(PrepareSettings(**given, images="memory://bucket/in", out=out, max_bad_image_share=0.2))
    assert open_dataset(out).info["bad_images"] == {"missing": 1, "unreadable": 1}


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_shards_at_a_url_hold_the_same_bytes(tiny_world, streaming_shards, layout):
    expected = tiny_world / "shards" if layout == "catalogue" else streaming_shards
    dataset = put(tiny_world / "dataset", "memory://bucket/dataset")
    out = "memory://bucket/shards"
    write_shards(Settings(dataset=dataset, out=out, requests_per_shard=64, layout=layout))
    found, wanted = at(out), files(expected)
    index = read_json(Path(out) / "index.json")
    assert index["dataset"] == dataset
    assert found.pop("index.json") and wanted.pop("index.json") and found == wanted
    mine, theirs = open_shards(out), open_shards(expected)
    for kind in ("items", "train", "valid"):
        assert list(all_records(mine, kind)) == list(all_records(theirs, kind))
        pictures, others = mine.pictures(kind), theirs.pictures(kind)
        assert all(pictures[item] == others[item] for item in np.flatnonzero(pictures.row >= 0))


def test_what_is_appended_at_a_url_is_what_is_appended_in_a_folder(tiny_world, tmp_path):
    log = open_dataset(tiny_world / "dataset").impressions
    log = log.select("user_id", "item_id", "timestamp", "click", request_id="request")
    for name, rows in (("early", log.head(len(log) * 2 // 3)), ("late", log)):
        rows.write_parquet(tmp_path / f"{name}.parquet")
        items = tiny_world / "dataset" / "items.parquet"
        given = {"impressions": str(tmp_path / f"{name}.parquet"), "items": str(items)}
        images = str(tiny_world / "dataset")
        prepare(PrepareSettings(**given, images=images, out=tmp_path / name, valid_from=0.75, test_from=0.85))
    here, there = tmp_path / "shards", "memory://bucket/shards"
    for name in ("early", "late"):
        dataset = put(tmp_path / name, f"memory://bucket/{name}")
        more = {"append": name == "late", "requests_per_shard": 64}
        write_shards(Settings(dataset=str(tmp_path / name), out=str(here), **more))
        index = write_shards(Settings(dataset=dataset, out=there, **more))
    assert len(index["writings"]) == 2
    found, wanted = at(there), files(here)
    assert found.pop("index.json") and wanted.pop("index.json") and found == wanted
    assert {file["file"] for file in files_of(index)} == found.keys()


@pytest.mark.parametrize("name", ["table", "t.npy", "t.parquet", "t.npz", "mmrec"])
def test_tables_at_urls(name, tmp_path):
    ids, vectors = ["b", "a", "c"], np.arange(6, dtype=np.float32).reshape(3, 2)
    write_table("memory://bucket/own", ids, vectors, {"encoder": "x"})
    out = f"memory://bucket/to/{name}"
    layout = "mmrec" if name == "mmrec" else None
    convert(ConvertSettings(table="memory://bucket/own", out=out, layout=layout))
    table = read_table(out)
    assert list(map(str, table.ids)) == ids and np.array_equal(table.vectors, vectors)
    with pytest.raises(UserError, match="exists"):
        convert(ConvertSettings(table="memory://bucket/own", out=out, layout=layout))


def failing(monkeypatch, name):
    """Let uploads of files of some name fail."""
    put_file = type(MEMORY).put_file

    def fail(self, source, target, **options):
        if target.endswith(name):
            raise OSError("the storage is away")
        put_file(self, source, target, **options)

    monkeypatch.setattr(type(MEMORY), "put_file", fail)


def test_an_upload_that_fails_leaves_nothing_that_looks_whole(monkeypatch, url_cache):
    away = pytest.raises(UserError, match=r"memory://bucket/out/part-1.bin: the storage failed 5 times .*away")
    with monkeypatch.context() as context:
        failing(context, "part-1.bin")
        with away as said, whole_folder("memory://bucket/out") as scratch:
            for number in range(3):
                (scratch / f"part-{number}.bin").write_bytes(bytes(10))
            write_json(scratch / "table.json", {})
    assert "table.json" not in at("memory://bucket/out")
    kept = Path(str(said.value).rpartition(" are in ")[2])
    assert sorted(files(kept)) == ["part-0.bin", "part-1.bin", "part-2.bin", "table.json"]
    with whole_folder("memory://bucket/out") as scratch:  # not "exists already"
        write_json(scratch / "table.json", {})
    assert not list((url_cache / "outgoing").rglob(".*"))


def test_shards_that_could_not_be_uploaded_are_not_written_again(tiny_world, monkeypatch):
    settings = Settings(dataset=str(tiny_world / "dataset"), out="memory://bucket/s", requests_per_shard=64)
    with monkeypatch.context() as context:
        failing(context, "items.parquet")
        with pytest.raises(UserError, match=r"items.parquet: .*the same command continues"):
            write_shards(settings)
    assert "index.json" not in at("memory://bucket/s")
    monkeypatch.setattr("data_tools.sharding.write.run_job", None)  # no job is left to run
    index = write_shards(settings)
    assert {file["file"] for file in files_of(index)} | {"index.json"} == at("memory://bucket/s").keys()


def test_the_manifest_is_uploaded_last(tmp_path, monkeypatch):
    order, put = [], storage._put
    monkeypatch.setattr(storage, "_put", lambda source, url: (order.append(url), put(source, url)))
    for name in ("a.bin", "index.json", "z.bin"):
        (tmp_path / name).write_bytes(b"x")
    storage.upload(tmp_path, "memory://bucket/x")
    assert order[-1].endswith("index.json") and len(order) == 3


def test_what_is_there_is_not_written_over():
    with whole_folder("memory://bucket/out") as scratch:
        write_json(scratch / "index.json", {})
    with pytest.raises(UserError, match="exists already"), whole_folder("memory://bucket/out"):
        pass


def sized(name, size):
    url = f"memory://bucket/{name}"
    MEMORY.pipe_file(url, bytes(size))
    return url


def copies(folder):
    return sorted(p.name for p in (folder / "files").rglob("*") if p.is_file() and not p.name.startswith("."))


def read_held(url):
    with held(url) as file:
        return len(file.read_bytes())


def test_the_least_recently_used_copy_goes_first(url_cache, monkeypatch):
    monkeypatch.setenv(cache.GIGABYTES, str(3000e-9))
    urls = {name: sized(name, 1000) for name in "abcd"}
    for name in "abcab":
        assert read_held(urls[name]) == 1000
    assert read_held(urls["d"]) == 1000
    assert copies(url_cache) == ["a", "b", "d"]
    reads = []
    monkeypatch.setattr(cache, "download", lambda *given: reads.append(given))
    read_held(urls["a"])
    assert not reads


def test_a_copy_that_is_in_use_stays_and_a_full_cache_says_so(url_cache, monkeypatch):
    monkeypatch.setenv(cache.GIGABYTES, str(2000e-9))
    monkeypatch.setattr(cache, "ROOM_PATIENCE", 0)
    a, b, c = (sized(name, 1000) for name in "abc")
    with held(a) as file:
        read_held(b)
        read_held(c)
        assert copies(url_cache) == ["a", "c"] and file.exists()
        local(c)
        with pytest.raises(UserError, match=r"bucket/b needs .* is full: .*raise --url_cache_gb"):
            read_held(b)
    read_held(b)
    with pytest.raises(UserError, match=r"bucket/large takes .*may hold .*raise --url_cache_gb"):
        read_held(sized("large", 2001))


def test_a_killed_download_takes_no_room_for_ever(url_cache, monkeypatch):
    monkeypatch.setenv(cache.GIGABYTES, str(1500e-9))
    place = url_cache / "files" / "memory" / "bucket"
    place.mkdir(parents=True)
    (place / ".x.partial").write_bytes(bytes(1000))
    read_held(sized("a", 1000))
    assert not (place / ".x.partial").exists()


def test_another_version_is_fetched_anew(url_cache):
    url = sized("a", 10)
    assert local(url).read_bytes() == bytes(10)
    MEMORY.pipe_file(url, b"0123456789")
    cache.forget(url)
    assert local(url).read_bytes() == b"0123456789"


def test_random_reads_that_do_not_fit_are_refused_at_once(tiny_world, monkeypatch):
    put(tiny_world / "shards", "memory://bucket/s")
    monkeypatch.setenv(cache.GIGABYTES, "1e-5")
    with pytest.raises(UserError, match=r"memory://bucket/s takes .*--url_cache_gb, or write .*--layout streaming"):
        open_shards("memory://bucket/s").pictures("train")


@pytest.mark.parametrize("part", ["tar", "parquet"])
def test_shards_that_changed_at_their_url_are_noticed(tiny_world, tmp_path, part):
    shutil.copytree(tiny_world / "shards", tmp_path / "s")
    file = next((tmp_path / "s").glob(f"*.{part}"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    url = put(tmp_path / "s", "memory://bucket/s")
    with pytest.raises(UserError, match=f"{part} has digest .*was damaged or changed"):
        open_shards(url, digests=True)
    MEMORY.rm(f"{url}/{file.name}")
    with pytest.raises(UserError, match=f"{file.name} has 0 bytes, the index promises"):
        open_shards(url)


def test_a_url_keeps_to_its_place_in_the_cache(url_cache):
    for url in ("s3://b/../../etc/passwd", f"https://h/{'x' * 300}?sig=a//b", "https://h/a?x=1", "https://h/a?x=2"):
        place = cache.copy_of(url)
        assert Path(os.path.normpath(place)).is_relative_to(url_cache / "files")
        assert all(len(part.encode()) < 256 for part in place.parts)
    assert cache.copy_of("https://h/a?x=1") != cache.copy_of("https://h/a?x=2")


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_path_can_be_a_url(slashes):
    assert storage.url_of(Path(f"s3:{slashes}bucket/x") / "y") == "s3://bucket/x/y"
    assert not storage.is_url("C:/x") and not storage.is_url("a/b://c")


def test_nothing_is_taken_for_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing can be written to a web server"), whole_folder("https://host/x"):
        pass
    with pytest.raises(UserError, match="nothing can be written to a web server"), whole_file("https://host/x"):
        pass
    with pytest.raises(UserError, match=r"s3://bucket/run: a run is a folder of this machine"):
        refuse_url(Path("s3://bucket/run"), "a run")
    with pytest.raises(UserError, match="without file://"):
        local("file:///etc/hosts")
    with pytest.raises(UserError, match=r"unknown URL scheme nowhere://; s3, gs"):
        local("nowhere://x/y")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_an_extra_that_is_missing_is_named(monkeypatch):
    def absent(*args, **options):
        raise ImportError("Install s3fs to access S3")

    storage._opened.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(UserError, match=r"s3://b/x: .*not installed; pip install 'visual-interest\[s3\]'"):
        storage.info("s3://b/x")


def test_a_json_file_at_a_url_is_written_and_read():
    write_json("memory://bucket/x.json", {"a": 1})
    assert read_json("memory://bucket/x.json") == {"a": 1}
    write_json("memory://bucket/x.json", {"a": 2})
    assert read_json("memory://bucket/x.json") == {"a": 2}
    assert digest([local("memory://bucket/x.json")])
