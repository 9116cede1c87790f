"""Page views, histories and splits of a behaviour log, as ibis expressions that run on any engine.

Every function takes a table with ``user_id``, ``timestamp`` (int64), ``click`` (0 or 1) and ``row`` (int64, unique: the
order in the log, which is all that settles ties) and gives back an expression; nothing runs here.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir


def clicks_before(impressions: ir.Table) -> ir.Table:
    """Add ``clicks_before`` (int32): how many of the user's clicks lie strictly before the impression's timestamp.

    Clicks up to and including the timestamp, less those at that very timestamp: ties never see each other.
    """
    until_now = ibis.range_window(following=0, group_by="user_id", order_by="timestamp")
    just_now = ibis.window(group_by=["user_id", "timestamp"])
    clicks = impressions.click.sum()
    return impressions.mutate(clicks_before=(clicks.over(until_now) - clicks.over(just_now)).cast("int32"))


def _sittings(impressions: ir.Table, gap: int, slots: int) -> ir.Table:
    """Add ``sitting`` and ``page``, which number the page views of each user by the gap rule."""
    in_order = {"group_by": "user_id", "order_by": ["timestamp", "row"]}
    pause = impressions.timestamp - impressions.timestamp.lag().over(ibis.window(**in_order))
    starts = impressions.mutate(starts=(pause > gap).ifelse(1, 0))
    sat = starts.mutate(sitting=starts.starts.cumsum(**in_order)).drop("starts")
    slot = ibis.row_number().over(ibis.window(group_by=["user_id", "sitting"], order_by=["timestamp", "row"]))
    return sat.mutate(page=slot // slots)


def page_views(impressions: ir.Table, gap: int, slots: int) -> ir.Table:
    """Add ``request`` (int64, from 0) and ``page_time`` (int64, the timestamp of its first impression).

    With a column ``request_id``, a user's impressions of one request_id are a page view. Without, a user's impressions
    that follow each other within ``gap`` (in the unit of the timestamps) are cut into page views of ``slots`` slots.
    Page views are numbered by the time of their first impression, then by their first row in the log.
    """
    if "request_id" in impressions.columns:
        keyed, key = impressions, ["user_id", "request_id"]
    else:
        keyed, key = _sittings(impressions, gap, slots), ["user_id", "sitting", "page"]
    views = keyed.group_by(key).agg(page_time=keyed.timestamp.min(), first_row=keyed.row.min())
    number = ibis.row_number().over(ibis.window(order_by=["page_time", "first_row"]))
    joined = keyed.join(views.mutate(request=number), key)
    return joined.select(*impressions.columns, "request", "page_time")


def split_times(impressions: ir.Table, valid_from: float, test_from: float) -> ir.Table:
    """One row with ``valid_start`` and ``test_start`` (int64).

    They are the timestamps of the impressions number ``floor(fraction * n)``, counted from 0, of all n in time order;
    fractions are taken to the millionth.
    """
    moments = impressions.group_by("timestamp").agg(impressions=impressions.count())
    reached = moments.mutate(reached=moments.impressions.cumsum(order_by="timestamp"), total=moments.impressions.sum())

    def start(fraction: float) -> ir.Value:
        # In whole numbers, because engines differ in the last bit of a product of floats.
        return reached.timestamp.min(where=reached.reached * 1_000_000 > reached.total * round(fraction * 1_000_000))

    return reached.agg(valid_start=start(valid_from), test_start=start(test_from))


def without_late(impressions: ir.Table, late: ir.Table, valid_start: int) -> ir.Table:
    """Leave out what page views before ``valid_start`` show of some items, as if these were launched only then.

    Parameters
    ----------
    impressions : with ``page_time`` and ``item``
    late : one column ``item``, the items that are launched late
    """
    early = impressions.page_time < valid_start
    return impressions.filter(~(early & impressions.item.isin(late.item)))


def splits(impressions: ir.Table, valid_start: int, test_start: int) -> ir.Table:
    """Add ``split``: "train", "valid" or "test" by ``page_time``, so that no page view is torn apart."""
    page_time = impressions.page_time
    split = ibis.cases((page_time >= test_start, "test"), (page_time >= valid_start, "valid"), else_="train")
    return impressions.mutate(split=split)


def user_clicks(impressions: ir.Table) -> ir.Table:
    """One row a user, those without a click too: ``user``, ``user_id``, ``items`` and ``timestamps``, oldest first.

    Parameters
    ----------
    impressions : with the further columns ``user`` and ``item`` (int32, dense)

    Returns
    -------
    table with ``items`` (list of int32) and ``timestamps`` (list of int64), of one length a row
    """
    # A sorted list of structs, because an ordered aggregation is not to be had on every engine.
    click = ibis.struct({"timestamp": impressions.timestamp, "row": impressions.row, "item": impressions.item})
    clicked = impressions.group_by(["user", "user_id"]).agg(clicks=click.collect(where=impressions.click == 1).sort())

    def part(field: str, kind: str) -> ir.ArrayValue:
        return clicked.clicks.map(lambda one: one[field]).coalesce(ibis.literal([], kind))

    return clicked.select(
        "user", "user_id", items=part("item", "array<int32>"), timestamps=part("timestamp", "array<int64>")
    )
