"""A log to be scored, read and joined to the dataset that a model was trained on.

The log becomes what a dataset's impressions are (:mod:`data_tools.dataset.schema`): rows with a user, an item and the
number of clicks of the user before them, and all clicks of each user. These are the clicks of the dataset and, where
the log has labels, those of the log; one that both hold (the same user, item and time) counts once. DuckDB does the
sorting within its memory limit, so that memory does not grow with the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import polars as pl
from jsonargparse.typing import ClosedUnitInterval

from data_tools.common.checks import Checked
from data_tools.common.errors import UserError
from data_tools.common.parquet import parquet_table, read_parquet
from data_tools.dataset.rules import MatchIds, TimeUnit, refuse_above
from data_tools.dataset.schema import Dataset
from data_tools.log import histories, values
from data_tools.log.engines import DuckDB
from data_tools.log.examples import OBJECTS, WIDTH, bad_examples, nearly_known
from data_tools.log.times import ORDER, date_text
from data_tools.log.understood import Understood, catalogue_keys, read_id, understand
from data_tools.reading import inputs
from data_tools.reading.columns import resolve_columns
from data_tools.reading.form import Given
from data_tools.reading.page_rows import unfolded
from data_tools.reading.parts import nested_hint

READ = ("user_id", "item_id", "timestamp", "click", "conversion", "scene")
LOOKED_AT = 10_000  # users
# Clicks of the dataset come before those of the log at the same time.
BEFORE_THE_LOG = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Reading(Checked):
    """How the log to score is read; see data_tools.prepare.

    Attributes
    ----------
    time_unit : str
        What numeric times are, where that leaves a doubt. With order the log has no times: its rows come after all of
        the dataset, in their order.
    day_first : bool or null
        Whether dates such as 05/04/2023 begin with the day, where the log itself does not tell.
    click_values : str
        Values of the column click that are clicks, as in purchase,add_to_cart; one that holds a comma stands in double
        quotes. All others are not.
    match_ids : "exact", "stripped" or "unpadded"
        How ids are compared: exact, as they are; stripped, without surrounding blanks; unpadded, ids of items also
        without leading zeros.
    max_bad_share : float
        Largest fraction of the log's rows that may be unusable.
    memory : str
        Memory limit of DuckDB, which spills to disk next to the output; it takes a thread for each 120 MB.
    """

    time_unit: TimeUnit = "auto"
    day_first: bool | None = None
    click_values: str = ""
    match_ids: MatchIds = "exact"
    max_bad_share: ClosedUnitInterval = 0.05
    memory: str = "1GB"


@dataclass(frozen=True)
class NewLog:
    """A log to score, in files.

    Attributes
    ----------
    rows : Path
        Parquet, one row a row of the log (an item of a page view, where rows are such), in its order: ``user_id`` and
        ``item_id`` as the log gives them, ``timestamp`` (int64), ``user`` (int32, numbered within the log), ``item``
        (int32), ``clicks_before`` (int32), ``click`` and ``conversion`` (int8) and ``scene`` where the log has them,
        ``fault`` (text). Of rows with a fault the numbers are null.
    clicks : Path
        Parquet, the ``item`` (int32) of each click, user after user, oldest first.
    users : polars.DataFrame
        In the order of their numbers: ``user_id`` (text), ``known`` (int32, row of the user in the dataset, null for a
        new one) and ``clicks`` (int64, how many of ``clicks`` are the user's).
    new_items : polars.Series
        Ids, as text, of items that the dataset does not have; they are numbered on from its own.
    faults : dict of str to int
        Reason -> rows and lines that cannot be scored, or whose label is of no use.
    notes : list of str
        What was understood of the log.
    """

    rows: Path
    clicks: Path
    users: pl.DataFrame
    new_items: pl.Series
    faults: dict[str, int]
    notes: list[str]


def read_new_log(
    run: DuckDB,
    place: str | Path,
    columns: Mapping[str, str],
    dataset: Dataset,
    reading: Reading,
    *,
    needs_scene: bool,
    given: Given | None,
    work: Path,
) -> NewLog:
    """Read a log and join it to a dataset.

    Parameters
    ----------
    run : DuckDB
        What works through the log.
    place : str or Path
        A file, a folder or a glob, as :mod:`data_tools.reading.inputs` reads it.
    columns : dict of str to str
        Our names -> those of the log, where they differ.
    dataset : Dataset
        What the model was trained on.
    reading : Reading
        How the log is read.
    needs_scene : bool
        Whether the model knows scenes.
    given : Given, optional
        What a user says of the form of text files.
    work : Path
        Folder for what is made.

    Raises
    ------
    UserError
        If the log cannot be read, lacks a column, or too much of it is unusable.
    """
    wanted = {*READ, *columns.values()}
    found = inputs.as_parquet(place, work, "log", expected=wanted, given=given, wanted=wanted, memory=reading.memory)
    found = unfolded(found, columns, wanted, work, reading.memory)
    no_times = reading.time_unit == ORDER
    needed = ["user_id", "item_id", *([] if no_times else ["timestamp"]), *(["scene"] if needs_scene else [])]
    optional = [name for name in READ if name not in needed and not (no_times and name == "timestamp")]
    try:
        named = resolve_columns(columns, list(found.columns), needed, optional, str(place))
    except UserError as error:
        raise UserError(f"{error}{nested_hint(found.parts, wanted)}") from None
    named = {ours: found.columns[theirs] for ours, theirs in named.items() if ours in (*needed, *optional)}
    table = run.read(found.parts, named.values())
    understood = understand(
        run,
        table,
        named,
        str(place),
        time_unit=reading.time_unit,
        day_first=reading.day_first,
        click_values=reading.click_values,
        match=reading.match_ids,
        bad_share=reading.max_bad_share,
    )
    catalogue, new_items = _catalogue(run, table[named["item_id"]], dataset, understood)
    if len(objects := new_items.filter(new_items.str.contains(OBJECTS))):
        name = columns.get("item_id", "item_id")
        raise UserError(
            f"{place}: column '{name}' must hold an id in each row, and holds objects such as {objects[0][:WIDTH]}"
            f"{nested_hint(found.parts, {name})}"
        )
    judged = _judged(run, table, named, catalogue, understood, dataset)
    _refuse_bad(run, judged, table, named, found, reading, str(place), work)
    faults = dict(run.rows(_reasons(judged).order_by(ibis.desc("rows"), "reason")).iter_rows())
    faults |= dict(found.broken["reason"].value_counts().iter_rows())

    users = run.keep("users", _users(run, judged, dataset))
    timeline = run.keep("timeline", histories.clicks_before(_events(run, judged, users, dataset)))
    counted = _write_clicks(run, timeline, users, work / "clicks.parquet")
    run.write(_rows(judged, timeline, table, named), work / "rows.parquet")
    notes = [*found.notes, *understood.notes, *_doubts(run, judged, users, new_items, dataset)]
    return NewLog(work / "rows.parquet", work / "clicks.parquet", counted, new_items, faults, notes)


def _write_clicks(run: DuckDB, timeline: ir.Table, users: ir.Table, path: Path) -> pl.DataFrame:
    """Write the clicks, user after user, oldest first; the table ``users`` of :class:`NewLog`."""
    clicks = timeline.filter(timeline.click == 1)
    run.write(clicks.order_by("user", "timestamp", "row").select("item"), path)
    counted = users.left_join(clicks.group_by("user").agg(clicks=clicks.count()), "user")
    return run.rows(counted.select("user", "user_id", "known", clicks=counted.clicks.fill_null(0)).order_by("user"))


def _doubts(run: DuckDB, judged: ir.Table, users: ir.Table, new_items: pl.Series, dataset: Dataset) -> list[str]:
    """What is worth saying where a log may be of other ids or of another time than the dataset."""
    notes = nearly_known("items", new_items, dataset.items["item_id"]) if len(new_items) else []
    if not run.rows(users.agg(known=users.known.count()))["known"][0]:
        known = read_parquet(dataset.table("clicks"), columns=["user_id"])["user_id"]
        some = run.rows(users.select(user_id=users.user_id).limit(LOOKED_AT))["user_id"]
        notes += nearly_known("users", some, known)
    last, (first, _), unit = judged.timestamp.max(), dataset.info["time_range"], dataset.info["time_unit"]
    end = run.rows(judged.filter(judged.fault.isnull()).agg(last=last))["last"][0]
    if end is not None and end < first:
        ends, begins = (date_text(time, unit) or time for time in (end, first))
        notes.append(
            f"the log ends at {ends}, before the dataset begins, at {begins}: none of its clicks is in a history"
        )
    return notes


def _catalogue(run: DuckDB, ids: ir.Value, dataset: Dataset, understood: Understood) -> tuple[ir.Table, pl.Series]:
    """All items by ``item`` and ``key``, those of the dataset and then those that only the log has; and these."""
    own = dataset.items.select("item", key=catalogue_keys(dataset.items, understood.match))
    known = run.frame("known_items", own)
    keys = read_id("item_id", ids, understood).cast("string").name("key").as_table().distinct()
    keys = keys.filter(keys.key.strip() != "")
    new = run.rows(keys.anti_join(known, "key").order_by("key"))["key"]
    numbers = pl.int_range(len(own), len(own) + len(new), dtype=pl.Int32, eager=True)
    return run.frame("catalogue", pl.concat([own, pl.DataFrame({"item": numbers, "key": new})])), new


def _judged(
    run: DuckDB,
    table: ir.Table,
    columns: Mapping[str, str],
    catalogue: ir.Table,
    understood: Understood,
    dataset: Dataset,
) -> ir.Table:
    """The values of each row, ``fault`` where it cannot be scored, and ``label_fault`` where its label is of no use.

    Times are in the unit of the dataset's.
    """
    read = values.judge(table, columns, catalogue, understood)
    time, unit = read.timestamp, dataset.info["time_unit"]
    if "timestamp" not in columns:
        time = time + dataset.info["time_range"][1] + 1
    elif unit == ORDER:
        raise UserError(
            f"{dataset.folder} has no times but an order, and {columns['timestamp']!r} cannot be compared with it; "
            "say --time-unit order if all of the log comes after it"
        )
    elif unit != understood.time.unit:
        time = time * 1000 if unit == "milliseconds" else time // 1000
    fault = ibis.cases(
        (read.user_id.isnull(), "user_id missing"),
        (read.item.isnull(), "item_id missing"),
        (time.isnull(), "timestamp missing or unreadable"),
    )
    wrong = read.fault.isin(["click not 0 or 1", "conversion not 0 or 1"])
    label_fault = wrong.ifelse(read.fault, ibis.null("string"))
    judged = read.mutate(timestamp=time, fault=fault, label_fault=label_fault, user_id=read.user_id.cast("string"))
    return run.keep("judged", judged)


def _reasons(judged: ir.Table) -> ir.Table:
    reason = judged.fault.coalesce(judged.label_fault)
    return judged.select(reason=reason).filter(reason.notnull()).group_by("reason").agg(rows=ibis._.count())


def _refuse_bad(
    run: DuckDB,
    judged: ir.Table,
    table: ir.Table,
    columns: Mapping[str, str],
    found: inputs.Found,
    reading: Reading,
    where: str,
    work: Path,
) -> None:
    """Raise a UserError if too much of the log is unusable, or all of it."""
    bad = dict(run.rows(_reasons(judged)).iter_rows()) | dict(found.broken["reason"].value_counts().iter_rows())
    examples: dict[str, list[str]] = {}
    if sum(bad.values()) > reading.max_bad_share * found.rows:
        aside = judged.select("row", reason=judged.fault.coalesce(judged.label_fault))
        run.write(values.set_aside(table, aside.filter(aside.reason.notnull())), work / "set_aside.parquet")
        examples = bad_examples(work / "set_aside.parquet", found, columns)
    refuse_above(reading.max_bad_share, bad, found.rows, f"rows of {where}", "max_bad_share", examples)
    if not run.rows(judged.agg(usable=judged.fault.isnull().sum()))["usable"][0]:
        raise UserError(f"{where} has no row that can be scored among its {found.rows}")


def _users(run: DuckDB, judged: ir.Table, dataset: Dataset) -> ir.Table:
    """``user`` (int32, from 0), ``user_id`` (text) and ``known`` (the user's row in the dataset) of the log's users."""
    known = parquet_table(run.backend, [dataset.table("clicks")])
    known = known.select(known=known.user, user_id=known.user_id.cast("string"))
    numbered = histories.numbered_users(judged.filter(judged.fault.isnull()))
    joined = numbered.left_join(known, "user_id")
    return joined.select("user_id", user=joined.number, known=joined.known)


def _events(run: DuckDB, judged: ir.Table, users: ir.Table, dataset: Dataset) -> ir.Table:
    """The rows of the log and the earlier clicks of its users: user, item, timestamp, click (0 or 1) and row.

    Clicks of the dataset have negative rows.
    """
    kept = parquet_table(run.backend, [dataset.table("clicks")]).rename(known="user")
    kept = kept.join(users.filter(users.known.notnull()), "known")
    kept = kept.select("user", one=kept["items"].zip(kept["timestamps"])).unnest("one", offset="place")
    earlier = run.keep(
        "earlier",
        kept.select(
            "user",
            item=kept.one.f1.cast("int32"),
            timestamp=kept.one.f2.cast("int64"),
            click=ibis.literal(1, "int8"),
            row=(kept.place - BEFORE_THE_LOG).cast("int64"),
        ),
    )
    sound = judged.filter(judged.fault.isnull()).join(users, "user_id")
    label = sound.click.fill_null(0) if "click" in judged.columns else ibis.literal(0)
    sound = run.keep("sound", sound.select("user", "item", "timestamp", click=label.cast("int8"), row=sound.row))
    clicked = sound.filter(sound.click == 1)
    counted_before = clicked.semi_join(earlier, ["user", "item", "timestamp"]).select("row")
    again = _repeated(clicked)
    own = sound.mutate(click=sound.row.isin(counted_before.union(again).row).ifelse(0, sound.click).cast("int8"))
    return own.union(earlier)


def _repeated(clicked: ir.Table) -> ir.Table:
    """The ``row`` of each click that the log above has, too."""
    return values.repeated(clicked.rename(user_id="user"))


def _rows(judged: ir.Table, timeline: ir.Table, table: ir.Table, columns: Mapping[str, str]) -> ir.Table:
    """The table ``rows`` of :class:`NewLog`."""
    own = timeline.filter(timeline.row >= 0).select("row", "user", "clicks_before")
    joined = judged.drop("user_id").left_join(own, "row").drop("row_right")
    given = table.select(row=table[values.ROW], user_id=table[columns["user_id"]], item_id=table[columns["item_id"]])
    joined = joined.join(given, "row")
    known = [name for name in ("click", "conversion", "scene") if name in judged.columns]
    order = ["user_id", "item_id", "timestamp", "user", "item", "clicks_before", *known, "fault"]
    return joined.order_by("row").select(*order)
