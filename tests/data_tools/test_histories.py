"""Histories, page views and splits against plain Python loops on logs full of ties."""

import ibis
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import histories

ENGINE = ibis.duckdb.connect()

rows = st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 1), st.sampled_from("xyz"))
logs = st.lists(rows, min_size=1, max_size=40)


def table(log, requests=False):
    user_ids, times, clicks, request_ids = zip(*log, strict=True)
    columns = {"row": range(len(log)), "user_id": user_ids, "timestamp": times, "click": clicks}
    if requests:
        columns["request_id"] = request_ids
    return ibis.memtable(pl.DataFrame(columns))


def column(expression, name):
    return ENGINE.to_polars(expression.order_by("row"))[name].to_list()


@settings(max_examples=30, deadline=None)
@given(logs)
def test_clicks_before_counts_the_users_earlier_clicks_only(log):
    expected = [sum(c for v, s, c, _ in log if v == user and s < time) for user, time, _, _ in log]
    assert column(histories.clicks_before(table(log)), "clicks_before") == expected


def numbered(views):
    """Rows of each page view -> the number of each row's page view, and the time of its first impression."""
    order = sorted(views, key=lambda view: (min(time for time, _ in view), min(row for _, row in view)))
    found = {row: (number, min(view)[0]) for number, view in enumerate(order) for _, row in view}
    return [found[row] for row in sorted(found)]


def by_gap(log, gap, slots):
    views = []
    for user in {user for user, *_ in log}:
        before = None
        for time, row in sorted((time, row) for row, (one, time, *_) in enumerate(log) if one == user):
            if before is None or time - before > gap or len(views[-1]) == slots:
                views.append([])
            views[-1].append((time, row))
            before = time
    return numbered(views)


@settings(max_examples=30, deadline=None)
@given(logs, st.integers(0, 4), st.integers(1, 4))
def test_page_views_by_the_gap_rule(log, gap, slots):
    viewed = histories.page_views(table(log), gap, slots)
    assert list(zip(column(viewed, "request"), column(viewed, "page_time"), strict=True)) == by_gap(log, gap, slots)


@settings(max_examples=30, deadline=None)
@given(logs)
def test_page_views_by_request_id_of_each_user(log):
    views = {}
    for row, (user, time, _, request) in enumerate(log):
        views.setdefault((user, request), []).append((time, row))
    viewed = histories.page_views(table(log, requests=True), 0, 1)
    found = list(zip(column(viewed, "request"), column(viewed, "page_time"), strict=True))
    assert found == numbered(list(views.values()))


@settings(max_examples=30, deadline=None)
@given(logs, st.tuples(st.integers(1, 99), st.integers(1, 99)).map(sorted))
def test_splits_keep_page_views_whole_and_in_time_order(log, percents):
    viewed = histories.page_views(table(log), 2, 3)
    starts = ENGINE.to_polars(histories.split_times(viewed, percents[0] / 100, percents[1] / 100)).row(0, named=True)
    times = sorted(time for _, time, _, _ in log)
    valid_start, test_start = (times[percent * len(log) // 100] for percent in percents)
    assert starts == {"valid_start": valid_start, "test_start": test_start}

    split = column(histories.splits(viewed, **starts), "split")
    firsts = [time for _, time in by_gap(log, 2, 3)]
    assert split == ["test" if t >= test_start else "valid" if t >= valid_start else "train" for t in firsts]


@settings(max_examples=30, deadline=None)
@given(logs)
def test_user_clicks_lists_each_users_clicks_oldest_first(log):
    users = sorted({user for user, *_ in log})
    plain = table(log)
    named = plain.mutate(user=plain.user_id.cases(*((u, n) for n, u in enumerate(users))), item=plain.row.cast("int32"))
    found = ENGINE.to_polars(histories.user_clicks(named).order_by("user"))
    assert found.schema["items"] == pl.List(pl.Int32) and found.schema["timestamps"] == pl.List(pl.Int64)
    for user, row in zip(users, found.iter_rows(named=True), strict=True):
        clicks = sorted((time, place) for place, (one, time, click, _) in enumerate(log) if one == user and click)
        assert list(zip(row["timestamps"], row["items"], strict=True)) == clicks


@pytest.mark.slow
@pytest.mark.parametrize("requests", [False, True])
def test_spark_says_the_same_as_duckdb(requests):
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install -e '.[spark]'")
    spark = ibis.pyspark.connect()
    random = np.random.default_rng(3)
    users, times = random.integers(0, 8, 300), random.integers(0, 100, 300)
    clicks, requested = random.integers(0, 2, 300) * (users > 0), random.choice(list("xyz"), 300)
    log = table(list(zip(users.tolist(), times.tolist(), clicks.tolist(), requested.tolist(), strict=True)), requests)
    log = log.mutate(user=log.user_id.cast("int32"), item=log.row.cast("int32"))

    def results(engine):
        viewed = histories.page_views(histories.clicks_before(log), 2, 3)
        starts = engine.to_pyarrow(histories.split_times(viewed, 0.8, 0.9)).to_pylist()[0]
        rows = engine.to_pyarrow(histories.splits(viewed, **starts).order_by("row")).to_pylist()
        return starts, rows, engine.to_pyarrow(histories.user_clicks(viewed).order_by("user")).to_pylist()

    assert results(spark) == results(ENGINE)
