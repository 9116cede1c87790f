"""Histories, page views and splits against plain Python loops on logs full of ties."""

from functools import cache

import ibis
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.log import histories

ENGINE = ibis.duckdb.connect()
# One table, with other rows for each log: making SQL of an expression takes far longer than to run it.
KINDS = {"row": "int64", "user": "int64", "timestamp": "int64", "click": "int64", "request_id": "string"}
ENGINE.create_table("log", schema=KINDS)
WITH_REQUESTS = ENGINE.table("log")
LOG = WITH_REQUESTS.drop("request_id")
USERS = ENGINE.create_table("users", ibis.memtable(pl.DataFrame({"user": range(3), "user_id": list("abc")})))

rows = st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 1), st.sampled_from("xyz"))
logs = st.lists(rows, min_size=1, max_size=40)


def put(log):
    """Have a log as the rows of the table."""
    users, times, clicks, requests = zip(*log, strict=True)
    columns = (range(len(log)), map("abc".index, users), times, clicks, requests)
    ENGINE.con.execute("DELETE FROM log")
    ENGINE.con.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", list(zip(*columns, strict=True)))


@cache
def viewed(gap, slots, requests=False):
    timeline = histories.timelines(WITH_REQUESTS if requests else LOG, gap, slots)
    return timeline.join(histories.page_views(timeline), histories.page_key(timeline))


@cache
def sql(expression):
    return ENGINE.compile(expression)


def rows_of(expression):
    return ENGINE.con.sql(sql(expression)).pl()


def column(expression, name):
    return rows_of(expression).sort("row")[name].to_list()


CLICKS_BEFORE, TIMELINE = histories.clicks_before(LOG), histories.timelines(LOG, 2, 3)
USER_CLICKS = histories.user_clicks(LOG.mutate(item=LOG.row.cast("int32")), USERS)
NUMBERED = histories.numbered_users(LOG, "user")
VIEWS = ENGINE.create_table("views", viewed(2, 3))


@settings(max_examples=30, deadline=None)
@given(logs)
def test_clicks_before_counts_the_users_earlier_clicks_only(log):
    expected = [sum(c for v, s, c, _ in log if v == user and s < time) for user, time, _, _ in log]
    put(log)
    assert column(CLICKS_BEFORE, "clicks_before") == expected
    assert column(TIMELINE, "clicks_before") == expected
    in_time = sorted(range(len(log)), key=lambda row: (log[row][1], row))
    before = {row: [r for r in in_time[:place] if log[r][0] == log[row][0]] for place, row in enumerate(in_time)}
    assert column(TIMELINE, "backwards") == [bool(before[row]) and before[row][-1] > row for row in range(len(log))]


def numbered(views, head=min):
    """Rows of each page view -> the number of each row's page view, and the time of its first impression."""
    order = sorted(views, key=head)
    found = {row: (number, min(view)[0]) for number, view in enumerate(order) for _, row in view}
    return [found[row] for row in sorted(found)]


def by_gap(log, gap, slots):
    views = []
    for user in {user for user, *_ in log}:
        before = None
        for time, row in sorted((time, row) for row, (one, time, *_) in enumerate(log) if one == user):
            if before is None or (gap is not None and time - before > gap) or len(views[-1]) == slots:
                views.append([])
            views[-1].append((time, row))
            before = time
    return numbered(views)


@settings(max_examples=30, deadline=None)
@given(logs, st.integers(0, 4) | st.none(), st.integers(1, 4))
def test_page_views_by_the_gap_rule(log, gap, slots):
    put(log)
    views = viewed(gap, slots)
    assert list(zip(column(views, "request"), column(views, "page_time"), strict=True)) == by_gap(log, gap, slots)


@settings(max_examples=30, deadline=None)
@given(logs)
def test_page_views_by_request_id_of_each_user(log):
    views = {}
    for row, (user, time, _, request) in enumerate(log):
        views.setdefault((user, request), []).append((time, row))
    put(log)
    made = viewed(0, 1, requests=True)
    found = list(zip(column(made, "request"), column(made, "page_time"), strict=True))
    assert found == numbered(list(views.values()), head=lambda view: (min(view)[0], min(row for _, row in view)))


@settings(max_examples=30, deadline=None)
@given(logs, st.tuples(st.integers(1, 99), st.integers(1, 99)).map(sorted))
def test_splits_keep_page_views_whole_and_in_time_order(log, percents):
    put(log)
    ENGINE.con.execute(f"DELETE FROM views; INSERT INTO views {sql(viewed(2, 3))}")
    starts = histories.split_times(VIEWS, percents[0] / 100, percents[1] / 100, rows_of)
    times = sorted(time for _, time, _, _ in log)
    valid_start, test_start = (times[percent * len(log) // 100] for percent in percents)
    assert starts == {"valid_start": valid_start, "test_start": test_start}

    split = column(histories.splits(VIEWS, **starts), "split")
    firsts = [time for _, time in by_gap(log, 2, 3)]
    assert split == ["test" if t >= test_start else "valid" if t >= valid_start else "train" for t in firsts]


@settings(max_examples=30, deadline=None)
@given(logs)
def test_user_clicks_lists_each_users_clicks_oldest_first(log):
    put(log)
    found = rows_of(USER_CLICKS).sort("user")
    assert found.schema["items"] == pl.List(pl.Int32) and found.schema["timestamps"] == pl.List(pl.Int64)
    for user, row in zip("abc", found.iter_rows(named=True), strict=True):
        clicks = sorted((time, place) for place, (one, time, click, _) in enumerate(log) if one == user and click)
        assert list(zip(row["timestamps"], row["items"], strict=True)) == clicks


@settings(max_examples=30, deadline=None)
@given(logs)
def test_users_are_numbered_by_their_first_rows(log):
    put(log)
    found = rows_of(NUMBERED).sort("number")
    first = dict.fromkeys("abc".index(user) for user, *_ in log)
    assert found["user"].to_list() == list(first) and found["number"].to_list() == list(range(len(first)))
