"""DuckDB takes as many threads as there are cores, and memory for them."""

import pytest

from data_tools.log.engines import engine


@pytest.mark.parametrize(
    ("memory", "cores", "threads"),
    [("256MB", 64, 2), ("900KB", 64, 1), ("4GB", 64, 33), ("4GB", 2, 2), ("1GiB", 1, 1), ("9999TB", 2, 2)],
)
def test_threads_are_no_more_than_memory_allows(tmp_path, monkeypatch, memory, cores, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    with engine("duckdb", tmp_path, memory) as run:
        found = run.backend.raw_sql("SELECT current_setting('threads')").fetchone()[0]
        assert abs(found - threads) <= threads // 20  # the limit is said in rounded units
