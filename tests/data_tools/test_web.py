"""A web server that drops connections, stalls or refuses: tried again, then said, and nothing half-written."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pytest

from data_tools.common import storage
from data_tools.common.cache import local
from data_tools.common.cli import UserError
from data_tools.prepare import Settings as PrepareSettings
from data_tools.prepare import prepare
from data_tools.sharding.read import all_records, open_shards
from data_tools.tables.table import read_table, write_table

pytest.importorskip("aiohttp", reason="reading https:// needs the extra http")


class Server(ThreadingHTTPServer):
    """Serves a folder; ``faults`` says what becomes of the next requests, and ``says`` what to answer to a path."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.faults, self.says, self.asked, self.ranges = folder, [], {}, [], True
        self.released = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *given):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.asked.append(self.path)
        fault = self.server.says.get(self.path) or (self.server.faults.pop(0) if body and self.server.faults else None)
        file = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if fault == "stall":
            self.server.released.wait(20)
            self.close_connection = True
            return
        if isinstance(fault, int) or not file.is_file():
            self.send_response(fault or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        asked = self.headers.get("Range") if self.server.ranges else None
        self.send_response(206 if asked else 200)
        if asked:
            start, stop = asked.removeprefix("bytes=").split("-")
            self.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
            data = data[int(start) : int(stop) + 1]
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if fault == "drop" else data)
        if fault == "drop":
            self.close_connection = True


@pytest.fixture
def server(tmp_path, url_cache, monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    monkeypatch.setattr(storage, "STALL", 0.5)
    storage._opened.cache_clear()  # which knows the patience of before
    (tmp_path / "www").mkdir()
    with Server(tmp_path / "www") as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.released.set()
        one.shutdown()
    storage._opened.cache_clear()


def offer(server, name="x.bin", size=1000):
    data = np.random.default_rng(0).bytes(size)
    (server.folder / name).write_bytes(data)
    return f"{server.url}/{name}", data


def nothing_left(cache):
    return not [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("faults", [[], ["drop"], ["drop", 500, "drop"], [503, "stall"]])
def test_a_file_arrives_whole_whatever_happens_on_the_way(server, monkeypatch, faults, ranges):
    monkeypatch.setattr(storage, "BLOCK", 300)
    url, data = offer(server)
    server.faults, server.ranges = list(faults), ranges
    assert local(url).read_bytes() == data
    assert not server.faults


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (404, r"x.bin does not exist \(status 404\); check the address"),
        (403, r"x.bin: access is denied \(status 403\); log in"),
        (400, r"x.bin: the storage refused the request \(status 400"),
        (503, r"x.bin: the storage failed 5 times \(status 503\); the same command continues"),
        ("stall", r"x.bin: the storage failed 5 times \(no answer for 0.5 s\); the same command continues"),
    ],
)
def test_a_fault_that_stays_is_said(server, url_cache, says, message):
    url, _ = offer(server)
    server.says["/x.bin"] = says
    with pytest.raises(UserError, match=message):
        local(url)
    assert nothing_left(url_cache)
    if isinstance(says, int) and says < 500:
        assert len(server.asked) <= 2, "an answer that stays as it is was asked for again"
    server.says.clear()
    server.released.set()
    assert local(url).read_bytes()


def test_a_server_that_is_away_is_said(server, url_cache):
    url, _ = offer(server)
    server.shutdown()
    server.server_close()
    started = time.monotonic()
    with pytest.raises(UserError, match=r"x.bin: the storage failed 5 times .*the same command continues"):
        local(url)
    assert time.monotonic() - started < 5
    assert nothing_left(url_cache)


def test_connections_that_always_drop_end_with_the_address(server, url_cache):
    url, _ = offer(server)
    server.faults = ["drop"] * 100
    with pytest.raises(UserError, match=r"x.bin: the storage failed 5 times"):
        local(url)
    assert nothing_left(url_cache)


def test_a_file_that_changes_between_its_parts_is_not_mixed(server, monkeypatch, url_cache):
    monkeypatch.setattr(storage, "BLOCK", 300)
    url, data = offer(server)
    part = storage._part

    def changed(system, path, start, stop):
        if start == 600:
            offer(server, size=len(data))
        return part(system, path, start, stop)

    monkeypatch.setattr(storage, "_part", changed)
    with pytest.raises(UserError, match="changed while it was read"):
        local(url)
    assert nothing_left(url_cache)


@pytest.mark.parametrize("layout", ["catalogue", "streaming"])
def test_shards_of_a_web_server(server, tiny_world, streaming_shards, layout):
    folder = tiny_world / "shards" if layout == "catalogue" else streaming_shards
    (server.folder / "s").symlink_to(folder)
    mine, theirs = open_shards(f"{server.url}/s"), open_shards(folder)
    server.faults = ["drop", 502]
    assert list(all_records(mine, "train")) == list(all_records(theirs, "train"))
    pictures, others = mine.pictures("items"), theirs.pictures("items")
    assert all(pictures[item] == others[item] for item in np.flatnonzero(pictures.row >= 0))


def test_a_table_and_a_dataset_of_a_web_server(server, source, tmp_path):
    write_table(server.folder / "table", ["a", "b"], np.eye(2, dtype=np.float32), {})
    assert read_table(f"{server.url}/table").ids == ["a", "b"]
    for file in source.iterdir():
        (server.folder / file.name).write_bytes(file.read_bytes())
    (server.folder / "07.png").unlink()
    server.faults = ["drop", 500]
    given = {"impressions": f"{server.url}/log.csv", "items": f"{server.url}/items.csv", "images": server.url}
    prepare(PrepareSettings(**given, out=tmp_path / "made", max_bad_image_share=0.1))
    items = pl.read_parquet(tmp_path / "made" / "items.parquet")
    assert items["image"].null_count() == 1


def test_no_dataset_is_left_where_a_picture_is_refused(server, source, tmp_path):
    for file in source.iterdir():
        (server.folder / file.name).write_bytes(file.read_bytes())
    server.says["/05.png"] = 403
    given = {"impressions": str(source / "log.csv"), "items": str(source / "items.csv"), "images": server.url}
    with pytest.raises(UserError, match=r"05.png: access is denied \(status 403\)"):
        prepare(PrepareSettings(**given, out=tmp_path / "made"))
    assert {path.name for path in tmp_path.iterdir()} <= {"www", "in", "cache"}
