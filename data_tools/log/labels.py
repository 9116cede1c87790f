"""Labels where the log has none of its own: ratings against a threshold, and unclicked items drawn for positives.

Ibis expressions that run on any engine, and draws that are the same on each: a hash of whole numbers, no random().
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import polars as pl

from data_tools.log.engines import Engine
from data_tools.log.values import MICRO

UNCLICKED = ("uniform", "popularity", "category")
OWN_MEAN = "own_mean"
ROUNDS = 12


def from_ratings(rows: ir.Table, threshold: float | str) -> ir.Table:
    """Replace ``rating`` (int64, millionths) by ``click`` (int8).

    Parameters
    ----------
    rows : with ``user``
    threshold : a rating, clicked from there on; or "own_mean": clicked above the mean of the user's ratings
    """
    if threshold != OWN_MEAN:
        return rows.mutate(click=(rows.rating >= round(float(threshold) * MICRO)).cast("int8")).drop("rating")
    means = rows.group_by("user").agg(total=rows.rating.sum(), rated=rows.count())
    joined = rows.join(means, "user")
    # In whole numbers, because engines differ in the last bit of a mean.
    above = joined.rating.cast("int64") * joined.rated > joined.total
    return joined.mutate(click=above.cast("int8")).drop("rating", "total", "rated")


def _hashed(row: ir.Value, draw: ir.Value | int, turn: int, seed: int) -> ir.Value:
    """32 well-mixed bits (int64) of four numbers; the mixer is the multiply and xor-shift one of T. Mueller."""
    low = 2**32 - 1
    mixed = (row % 2**32) * 1_540_483_477 + draw * 668_265_263 + (turn * 374_761_393 + seed * 1_274_126_177) % 2**32
    mixed = mixed & low
    for _ in range(2):
        mixed = ((mixed ^ (mixed // 65536).cast("int64")) * 0x45D9F3B) & low
    return mixed ^ (mixed // 65536).cast("int64")


def _pools(engine: Engine, clicks: ir.Table, catalogue: ir.Table, how: str) -> tuple[ir.Table, ir.Table]:
    """The clicks with ``pool`` and ``size`` (how many candidates there are by then), and the candidates themselves
    (``pool``, ``rank`` from 0, ``drawn``): items in the order of their first click, or clicks for popularity."""
    if how == "category":
        clicks = clicks.join(catalogue.select("item", pool=catalogue.category.coalesce("")), "item")
    else:
        clicks = clicks.mutate(pool=ibis.literal(""))
    order = ["timestamp", "row"]
    if how == "popularity":
        entering = ibis.literal(1, "int64")
    else:
        entering = (ibis.row_number().over(ibis.window(group_by="item", order_by=order)) == 0).ifelse(1, 0)
    entered = clicks.mutate(enters=entering.cast("int64"))
    reached = entered.enters.sum().over(ibis.cumulative_window(group_by="pool", order_by=order))
    placed = engine.keep("placed_clicks", entered.mutate(size=reached))
    members = placed.filter(placed.enters == 1)
    return placed.drop("enters"), members.select("pool", rank=members["size"] - 1, drawn=members.item)


def sample_unclicked(
    engine: Engine, clicks: ir.Table, catalogue: ir.Table, per_click: int, how: str, seed: int
) -> tuple[ir.Table, int]:
    """Join to every click some items that its user never clicked, as the impressions of one page view.

    Only items whose first click in the log is not later than the click are drawn, so that no item is shown before it
    appeared: each of them alike ("uniform"), those of the clicked item's category ("category"), or in proportion to
    their clicks so far ("popularity"). Within a page view no item stands twice.

    Parameters
    ----------
    clicks : ``row``, ``user``, ``item``, ``timestamp``, ``click`` and, where known, request_id, scene and others
    catalogue : ``item`` and, for "category", ``category``

    Returns
    -------
    impressions : the columns of ``clicks``, ``request_id`` (the row of the click where the log has none) and
        ``sampled`` (bool); ``row`` is new, with the click at a place of its page view that the seed draws
    lacking : how many draws found no such item
    """
    if "request_id" not in clicks.columns:
        clicks = clicks.mutate(request_id=clicks.row)
    placed, pool = _pools(engine, clicks, catalogue, how)
    clicked = clicks.select("user", "item").distinct()
    turns = engine.frame("draws", pl.DataFrame({"draw": list(range(per_click))}))
    needed = placed.select("row", "user", "pool", "size").cross_join(turns)
    taken: ir.Table | None = None
    lacking = 0
    for turn in range(ROUNDS):
        at = _hashed(needed.row, needed.draw.cast("int64"), turn, seed) % needed["size"]
        tried = needed.mutate(rank=at).join(pool, ["pool", "rank"]).select(*needed.columns, item="drawn")
        fresh = tried.anti_join(clicked, ["user", "item"])
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
    width = per_click + 1

    def place(row: ir.Value) -> ir.Value:
        return _hashed(row, per_click, 0, seed) % width  # a draw that none of the above is

    own = clicks.mutate(sampled=ibis.literal(False), row=clicks.row * width + place(clicks.row))
    joined = taken.rename(drawn="item").join(clicks, "row")
    draw = joined.draw.cast("int64")
    shared = ("user", "timestamp", "request_id", "scene")
    unclicked = joined.select(
        **{
            name: joined[name] if name in shared else ibis.null(clicks.schema()[name])
            for name in clicks.columns
            if name not in ("row", "item", "click")
        },
        row=joined.row * width + draw + (draw >= place(joined.row)).ifelse(1, 0),
        item=joined.drawn,
        click=ibis.literal(0, "int8"),
        sampled=ibis.literal(True),
    )
    return own.union(unclicked.select(own.columns)), lacking
