"""What is worth saying of a log that was read without a fault, and may still mean something else."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_tools.dataset.read_log import ReadLog
from data_tools.dataset.schema import DAYS
from data_tools.log.engines import Engine
from data_tools.log.times import ORDER

APART = 0.1  # of the clicks: unclicked rows of items clicked in the same page view, for that to be said
USERS_ALIKE = 0.01  # of the users: short random ids differ in case alone by chance
FEW_USERS, CROWD = 100, 0.1  # users of a log in which a single one has this share of the rows, for that to be said
LONG_VIEWS = 0.01  # of the page views


def doubts(run: Engine, read: ReadLog, viewed: ir.Table, views: ir.Table, events: str) -> list[str]:
    """What is worth saying of impressions and users.

    Parameters
    ----------
    run : Engine
    read : ReadLog
    viewed : ibis table
        The impressions with their page views.
    views : ibis table
        As :func:`data_tools.log.histories.page_views` gives them.
    events : str
        The values of the log that are clicks; "" where it has labels.
    """
    notes = [*_users_alike(run, read.users), *_crowd(run, read), *_long_views(run, views, read.unit)]
    if "conversion" in viewed.columns:
        count = run.rows(viewed.agg(n=((viewed.conversion == 1) & (viewed.click == 0)).sum()))["n"][0]
        notes += [f"{count:,} impressions without a click have a conversion"] if count else []
    return [*notes, *(_events_apart(run, viewed) if events else [])]


def _users_alike(run: Engine, users: ir.Table) -> list[str]:
    """What is to be said where many users may be one in truth, as those of e-mail addresses in other spelling."""
    if not users.user_id.type().is_string():
        return []
    plain = users.user_id.strip().lower().re_replace("^0+", "")
    count, distinct = run.rows(users.agg(count=users.count(), distinct=plain.nunique())).row(0)
    if count - distinct <= USERS_ALIKE * count:
        return []
    return [
        f"{count - distinct:,} users differ from others in upper and lower case, blanks round them or zeros in front "
        "alone"
    ]


def _crowd(run: Engine, read: ReadLog) -> list[str]:
    """What is to be said where one id has so many rows that it may stand for all who are not logged in."""
    counts = run.keep("rows_of_users", read.good.group_by("user").agg(rows=lambda t: t.count()))
    total, users = run.rows(counts.agg(total=counts.rows.sum(), users=counts.count())).row(0)
    if users < FEW_USERS:
        return []
    most = counts.filter(counts.rows > CROWD * float(total)).join(read.users, "user")
    most = most.select("user_id", share=most.rows / float(total)).order_by(ibis.desc("share"))
    return [
        f"user {user!r} has {share:.0%} of the rows: where an id stands for all who are not logged in, leave it "
        "empty, as it would count as one user with all their clicks"
        for user, share in run.rows(most).iter_rows()
    ]


def _long_views(run: Engine, views: ir.Table, unit: str) -> list[str]:
    """What is to be said where page views span days: where a request_id is used again, several count as one."""
    if "request_id" not in views.columns or unit == ORDER:
        return []
    long = (views.page_end - views.page_time > DAYS[unit]).sum()
    count, total = run.rows(views.agg(long=long, total=views.count())).row(0)
    if not total or count <= LONG_VIEWS * total:
        return []
    return [
        f"{count:,} of {total:,} page views last more than a day: rows of one user and request_id count as one page "
        "view, so the request_id must be another for each; leave it out where it is not"
    ]


def _events_apart(run: Engine, viewed: ir.Table) -> list[str]:
    """What is to be said where showing an item and a click on it are rows of their own."""
    clicks = viewed.filter(viewed.click == 1).select("user", "item", "request")
    shown = viewed.filter(viewed.click == 0).semi_join(clicks, ["user", "item", "request"])
    both, total = run.rows(shown.agg(n=shown.count()))["n"][0], run.rows(clicks.agg(n=clicks.count()))["n"][0]
    if both <= APART * total:
        return []
    return [
        f"{both:,} unclicked rows are of an item that is clicked in the same page view ({total:,} clicks): where a "
        "click has a row of its own beside that of the impression, make one of the two (docs/own-data.md, Events in "
        "rows of their own)"
    ]
