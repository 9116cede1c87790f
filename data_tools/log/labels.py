"""Labels where the log has none of its own: ratings against a threshold, and unclicked items drawn for positives.

Ibis expressions that run on any engine, and draws that are the same on each: a hash of whole numbers, no random().
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import polars as pl

from data_tools.log.engines import Engine
from data_tools.log.hashing import hashed
from data_tools.log.values import MICRO

OWN_MEAN = "own_mean"
ROUNDS = 12
# What a drawn item shares with the click that it was drawn for.
PAGE_VIEW = ("user", "timestamp", "request_id", "scene", "page_time", "request", "clicks_before", "split", "part")


def from_ratings(rows: ir.Table, threshold: float | str) -> ir.Table:
    """Replace ``rating`` (int64, millionths) by ``click`` (int8).

    Parameters
    ----------
    rows : ibis table
        With ``user``.
    threshold : float or str
        A rating, clicked from there on; or "own_mean": clicked above the mean of the user's ratings.
    """
    if threshold != OWN_MEAN:
        return rows.mutate(click=(rows.rating >= round(float(threshold) * MICRO)).cast("int8")).drop("rating")
    means = rows.group_by("user").agg(total=rows.rating.sum(), rated=rows.count())
    joined = rows.join(means, "user")
    # In whole numbers, because engines differ in the last bit of a mean.
    above = joined.rating.cast("int64") * joined.rated > joined.total
    return joined.mutate(click=above.cast("int8")).drop("rating", "total", "rated")


def _pools(engine: Engine, clicks: ir.Table, catalogue: ir.Table, how: str) -> tuple[ir.Table, ir.Table]:
    """Candidates by pool, in the order of their first clicks, or of all clicks where popularity counts.

    Returns
    -------
    clicks : with ``pool``, ``size`` (candidates by then) and ``alike`` (of the clicked item)
    members : ``pool``, ``rank`` (from 0), ``drawn`` (the item) and ``drawn_alike``
    """
    pool = catalogue.category.coalesce("") if how.startswith("category") else ibis.literal("")
    clicks = clicks.join(catalogue.select("item", "alike", pool=pool), "item")
    order = ["timestamp", "row"]
    if how.endswith("popularity"):
        entering = ibis.literal(1, "int64")
    else:
        entering = (ibis.row_number().over(ibis.window(group_by="item", order_by=order)) == 0).ifelse(1, 0)
    entered = clicks.mutate(enters=entering.cast("int64"))
    reached = entered.enters.sum().over(ibis.cumulative_window(group_by="pool", order_by=order))
    placed = engine.keep("placed_clicks", entered.mutate(size=reached))
    members = placed.filter(placed.enters == 1)
    return placed.drop("enters"), members.select(
        "pool", rank=members["size"] - 1, drawn=members.item, drawn_alike=members.alike
    )


def _allowed(tried: ir.Table, firsts: ir.Table) -> ir.Table:
    """The draws of items that the user neither clicked by then nor clicks later in the same split, and that are not
    alike to the clicked item."""
    known = tried.left_join(firsts, ["user", "item"])
    new = known.first_time.isnull() | ((known.first_time > known.timestamp) & (known.first_part > known.part))
    unlike = (known.alike != known.drawn_alike).fill_null(True)
    return known.filter(new & unlike).select(*tried.columns)


def _drawn(
    engine: Engine, clicks: ir.Table, catalogue: ir.Table, *, per_click: int, how: str, seed: int
) -> tuple[ir.Table, int]:
    """``row`` (of a click), ``draw`` (0 to ``per_click`` - 1) and ``item``; and how many draws found nothing."""
    placed, pool = _pools(engine, clicks, catalogue, how)
    firsts = clicks.group_by("user", "item").agg(first_time=clicks.timestamp.min(), first_part=clicks.part.min())
    firsts = engine.keep("first_clicks", firsts)
    turns = engine.frame("draws", pl.DataFrame({"draw": list(range(per_click))}))
    needed = placed.filter(placed.target)
    needed = needed.select("row", "user", "timestamp", "part", "alike", "pool", "size").cross_join(turns)
    taken: ir.Table | None = None
    lacking = 0
    for turn in range(ROUNDS):
        at = hashed(needed.row, needed.draw.cast("int64"), turn, seed) % needed["size"]
        tried = needed.mutate(rank=at).join(pool, ["pool", "rank"]).rename(item="drawn").drop("rank")
        fresh = _allowed(tried, firsts)
        if taken is not None:
            fresh = fresh.anti_join(taken, ["row", "item"])
        first = ibis.row_number().over(ibis.window(group_by=["row", "item"], order_by="draw")) == 0
        found = fresh.mutate(first=first).filter(ibis._.first).select("row", "draw", "item")
        found = engine.keep(f"found_{turn}", found)
        taken = found if taken is None else taken.union(found)
        needed = engine.keep(f"needed_{turn}", needed.anti_join(found, ["row", "draw"]))
        lacking = int(engine.rows(needed.agg(n=needed.count()))["n"][0])
        if not lacking:
            break
    return taken, lacking


def sample_unclicked(
    engine: Engine, clicks: ir.Table, catalogue: ir.Table, *, per_click: int, how: str, seed: int
) -> tuple[ir.Table, int]:
    """Add to the clicks some items that its user did not click, as the impressions of one page view.

    Items are drawn as at the time of the click: only those whose first click in the log is not later; of these, none
    that the user clicked by then or clicks later in the same split, and none alike to the clicked item. What the user
    clicks in a later split does not count, since knowing it would leak that split. ``how`` says from which of them:
    all with equal probability ("uniform") or in proportion to their clicks so far ("popularity"); the same within the
    clicked item's category ("category", "category_popularity"). Within a page view no item occurs twice, and the
    click's slot is random.

    Parameters
    ----------
    engine : Engine
        What works through the log.
    clicks : ibis table
        row, user, item, timestamp, click, request_id, ``part`` (number of the split, in time order), ``target``
        (whether items are drawn for it) and others.
    catalogue : ibis table
        item, ``alike`` (items that share a value are not drawn for each other; null for none) and, for "category",
        category.
    per_click : int
        Draws for each click.
    how : str
        See above.
    seed : int
        Of the draws and of the click's slot.

    Returns
    -------
    impressions : ibis table
        The targets and the draws: the columns of ``clicks`` but for ``target``, and ``sampled`` (bool); ``row`` is new.
        A drawn row has the values of its click that describe the page view, and null for others, such as conversion.
    lacking : int
        Draws that found no such item.
    """
    taken, lacking = _drawn(engine, clicks, catalogue, per_click=per_click, how=how, seed=seed)
    width = per_click + 1

    def place(row: ir.Value) -> ir.Value:
        return hashed(row, per_click, 0, seed) % width  # a draw that none of the above is

    clicks = clicks.filter(clicks.target).drop("target")
    own = clicks.mutate(sampled=ibis.literal(False), row=clicks.row * width + place(clicks.row))
    joined = taken.rename(drawn="item").join(clicks, "row")
    draw = joined.draw.cast("int64")
    unclicked = joined.select(
        **{
            name: joined[name] if name in PAGE_VIEW else ibis.null(clicks.schema()[name])
            for name in clicks.columns
            if name not in ("row", "item", "click")
        },
        row=joined.row * width + draw + (draw >= place(joined.row)).ifelse(1, 0),
        item=joined.drawn,
        click=ibis.literal(0, "int8"),
        sampled=ibis.literal(True),
    )
    return own.union(unclicked.select(own.columns)), lacking
