"""Page views, histories and splits of a behaviour log, as ibis expressions that run on any engine.

Every function takes a table with ``user`` (int32, dense), ``timestamp`` (int64), ``click`` (0 or 1) and ``row`` (int64,
unique: the order in the log, which is all that settles ties) and gives back an expression; nothing runs here.

A large log is sorted as few times as can be: :func:`timelines` finds all that asks for the order of a user's rows, in
one order, and page views carry numbers for keys.
"""

from __future__ import annotations

from collections.abc import Callable

import ibis
import ibis.expr.types as ir
import polars as pl

from data_tools.log.hashing import hashed

MILLION = 1_000_000


def _earlier_clicks(ordered: ir.Table) -> ir.Value:
    """Clicks strictly before a row's timestamp: those above the first, thus the fewest above any, of its ties."""
    ties = ibis.window(group_by="user", order_by="timestamp", range=(0, 0))
    return (ordered.clicked - ordered.click).min().over(ties).cast("int32")


def _ordered(impressions: ir.Table) -> ir.Table:
    """Add, in the order of each user's rows, ``place`` (from 0), ``pause`` (since the row before, null at first),
    ``clicked`` (clicks up to the row) and ``backwards`` (whether the log has the row above the one before)."""
    in_order = {"group_by": "user", "order_by": ["timestamp", "row"]}
    window = ibis.window(**in_order)
    return impressions.mutate(
        place=ibis.row_number().over(window),
        pause=impressions.timestamp - impressions.timestamp.lag().over(window),
        clicked=impressions.click.sum().over(ibis.cumulative_window(**in_order)).cast("int32"),
        backwards=(impressions.row.lag().over(window) > impressions.row).fill_null(False),
    )


def _clicks_above(ordered: ir.Table) -> ir.Value:
    """Clicks before a row in the order of the user's rows: of its timestamp, those with a lower ``row``."""
    return (ordered.clicked - ordered.click).cast("int32")


def clicks_before(impressions: ir.Table, same_time: bool = False) -> ir.Table:
    """Add ``clicks_before`` (int32): how many of the user's clicks lie strictly before the impression's timestamp.

    Ties never see each other, unless ``same_time``: then those with a lower ``row`` count, too.
    """
    ordered = _ordered(impressions)
    before = _clicks_above(ordered) if same_time else _earlier_clicks(ordered)
    return ordered.mutate(clicks_before=before).drop("place", "pause", "clicked", "backwards")


def with_ties_drawn(impressions: ir.Table, seed: int) -> ir.Table:
    """Renumber the rows (``row``, int64 from 0) in time order, those of one timestamp in an order that is drawn."""
    order = [impressions.timestamp, hashed(impressions.row, 0, 0, seed), impressions.row]
    return impressions.mutate(row=ibis.row_number().over(ibis.window(order_by=order)))


def last_of_ties(impressions: ir.Table) -> ir.Value:
    """Whether a row is the last one of its user and timestamp."""
    return impressions.row == impressions.row.max().over(ibis.window(group_by=["user", "timestamp"]))


def timelines(impressions: ir.Table, gap: int | None, slots: int, same_time: bool = False) -> ir.Table:
    """Add ``clicks_before`` (as :func:`clicks_before`), ``backwards`` (bool: the log has the row above the one
    that comes before it in time) and ``page`` (int64), which numbers the page views of a user.

    With a column ``request_id``, a user's impressions of one request_id are a page view, and no ``page`` is added.
    Without, a user's impressions that follow each other within ``gap`` (in the unit of the timestamps; None for any
    pause) are cut into page views of ``slots`` slots.
    """
    ordered = _ordered(impressions)
    added = {"clicks_before": _clicks_above(ordered) if same_time else _earlier_clicks(ordered)}
    if "request_id" not in impressions.columns:
        begins = ordered.pause.isnull() if gap is None else ordered.pause.isnull() | (ordered.pause > gap)
        until = ibis.cumulative_window(group_by="user", order_by=["timestamp", "row"])
        slot = ordered.place - begins.ifelse(ordered.place, 0).max().over(until)
        added["page"] = ordered.place - slot % slots
        added["heads"] = slot % slots == 0
    return ordered.mutate(**added).drop("place", "pause", "clicked")


def with_requests(impressions: ir.Table, gap: int | None, slots: int) -> ir.Table:
    """Fill in ``request_id`` where it is null: page views made as :func:`timelines` does where there is none at all."""
    lacking = impressions.filter(impressions.request_id.isnull()).drop("request_id")
    made = timelines(lacking, gap, slots)
    made = made.mutate(request_id=ibis.literal("page ") + made.page.cast("string"))
    own = impressions.filter(impressions.request_id.notnull())
    own = own.mutate(request_id=own.request_id.cast("string"))
    return own.union(made.select(own.columns))


def page_views(timeline: ir.Table) -> ir.Table:
    """One row a page view: its key (``user`` and ``page`` or ``request_id``), ``page_time`` (int64, the timestamp of
    its first impression), ``page_end`` (of its last one, where it has a request_id) and ``request`` (int64, from 0).

    Page views are numbered by the time of their first impression, then by its row in the log (those of a request_id by
    the first row of theirs).

    Parameters
    ----------
    timeline : ibis table
        As :func:`timelines` gives it.
    """
    if "request_id" in timeline.columns:
        time = timeline.timestamp
        views = timeline.group_by(page_key(timeline)).agg(
            page_time=time.min(), page_end=time.max(), head=timeline.row.min()
        )
    else:
        heads = timeline.filter(timeline.heads)
        views = heads.select("user", "page", page_time=heads.timestamp, page_end=heads.timestamp, head=heads.row)
    number = ibis.row_number().over(ibis.window(order_by=["page_time", "head"]))
    return views.mutate(request=number).drop("head")


def page_key(timeline: ir.Table) -> list[str]:
    """The columns that say which page view of :func:`page_views` a row belongs to."""
    return ["user", "request_id" if "request_id" in timeline.columns else "page"]


def split_times(
    impressions: ir.Table, valid_from: float, test_from: float, fetch: Callable[[ir.Table], pl.DataFrame]
) -> dict[str, int]:
    """``valid_start`` and ``test_start``.

    They are the timestamps of the impressions number ``floor(fraction * n)``, counted from 0, of all n in time order;
    fractions are taken to the millionth. Found by counting within spans of time, so that nothing is sorted.

    Parameters
    ----------
    fetch : callable
        Works out a small table.
    """
    time = impressions.timestamp
    first, last, total = fetch(impressions.agg(first=time.min(), last=time.max(), n=impressions.count())).row(0)
    width = (last - first) // 100_000 + 1
    spanned = impressions.select(time=time, span=(time - first) // width)
    spans = fetch(spanned.group_by("span").agg(n=spanned.count())).sort("span")
    starts = {}
    for name, fraction in (("valid_start", valid_from), ("test_start", test_from)):
        wanted, counts = total * round(fraction * MILLION) // MILLION, spans
        above = counts.filter(pl.col("n").cum_sum() > wanted)["span"][0]
        wanted -= counts.filter(pl.col("span") < above)["n"].sum()
        within = spanned.filter(spanned.span == int(above))
        moments = fetch(within.group_by("time").agg(n=within.count())).sort("time")
        starts[name] = moments.filter(pl.col("n").cum_sum() > wanted)["time"][0]
    return starts


def without_late(impressions: ir.Table, late: ir.Table, valid_start: int) -> ir.Table:
    """Leave out what page views before ``valid_start`` show of some items, as if these were launched only then.

    Parameters
    ----------
    impressions : ibis table
        With ``page_time`` and ``item``.
    late : ibis table
        One column ``item``, the items that are launched late.
    """
    early = impressions.page_time < valid_start
    return impressions.filter(~(early & impressions.item.isin(late.item)))


def splits(impressions: ir.Table, valid_start: int, test_start: int) -> ir.Table:
    """Add ``split``: "train", "valid" or "test" by ``page_time``, so that no page view is torn apart."""
    page_time = impressions.page_time
    split = ibis.cases((page_time >= test_start, "test"), (page_time >= valid_start, "valid"), else_="train")
    return impressions.mutate(split=split)


def numbered_users(impressions: ir.Table, key: str = "user_id") -> ir.Table:
    """Each ``key`` with ``number`` (int32, from 0), in the order of the users' first rows in the log."""
    users = impressions.group_by(key).agg(first_row=impressions.row.min())
    number = ibis.row_number().over(ibis.window(order_by="first_row")).cast("int32")
    return users.select(key, number=number)


def user_clicks(impressions: ir.Table, users: ir.Table) -> ir.Table:
    """One row a user, those without a click too: ``user``, ``user_id``, ``items`` and ``timestamps``, oldest first.

    Parameters
    ----------
    impressions : ibis table
        With the further column ``item`` (int32, dense).
    users : ibis table
        ``user`` and ``user_id``.

    Returns
    -------
    table with ``items`` (list of int32) and ``timestamps`` (list of int64), of one length a row
    """
    # A sorted list of structs, because an ordered aggregation does not exist on every engine.
    clicks = impressions.filter(impressions.click == 1)
    click = ibis.struct({"timestamp": clicks.timestamp, "row": clicks.row, "item": clicks.item})
    listed = clicks.group_by("user").agg(clicks=click.collect())
    joined = users.left_join(listed, "user").select("user", "user_id", clicks=listed.clicks.sort())

    def part(field: str, kind: str) -> ir.ArrayValue:
        return joined.clicks.map(lambda one: one[field]).coalesce(ibis.literal([], kind))

    return joined.select(
        "user", "user_id", items=part("item", "array<int32>"), timestamps=part("timestamp", "array<int64>")
    )
