"""Read a log: which column is which, every row judged, the unusable set aside, and labels where it has none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import polars as pl

from data_tools.common.errors import UserError
from data_tools.common.parquet import read_parquet
from data_tools.dataset.rules import Rules, reasons, refuse_above
from data_tools.log import histories, labels, values
from data_tools.log.engines import Engine
from data_tools.log.examples import bad_examples
from data_tools.log.times import TimeForm
from data_tools.log.understood import Understood, catalogue_keys, understand
from data_tools.reading import inputs
from data_tools.reading.columns import LOG_COLUMNS, LOG_OPTIONAL, resolve_columns
from data_tools.reading.form import Form, Given
from data_tools.reading.page_rows import unfolded
from data_tools.reading.parts import nested_hint

HINTS = {
    "click": "\n  Ratings instead: --rating-threshold 4. Clicks alone: --unclicked 4 draws unclicked items.",
    "user_id": "\n  No users at all: what is learned is what a user clicks after what; "
    "name a cookie, a device or a session.",
    "timestamp": "\n  No times at all: --time-unit order takes the order of the rows.",
}
FILES_NAMED = 4


@dataclass(frozen=True)
class Log:
    """Where a log is and which column is which.

    Attributes
    ----------
    place : str or Path
        A file, a folder or a glob, as :mod:`data_tools.reading.inputs` reads it.
    columns : dict of str to str
        Our names -> those of the log, where they differ.
    form : Form, optional
        Of text files, where it is known for certain.
    given : Given, optional
        What a user says of the form of text files.
    """

    place: str | Path
    columns: Mapping[str, str]
    form: Form | None = None
    given: Given | None = None


@dataclass(frozen=True)
class ReadLog:
    """A log that was read and judged.

    Attributes
    ----------
    good : ibis table
        The usable rows: row, user, item, timestamp, click and what else is known.
    users : ibis table
        user (int32) and user_id.
    id_kind : str
        Type of the log's item ids.
    rows : int
        Rows and broken lines read.
    aside : dict of str to int
        Reason -> rows set aside.
    time : TimeForm
        How its times are read.
    notes : list of str
        What was understood of the log.
    """

    good: ir.Table
    users: ir.Table
    id_kind: str
    rows: int
    aside: dict[str, int]
    time: TimeForm
    notes: list[str]

    @property
    def unit(self) -> str:
        """The unit of the times: "seconds", "milliseconds" or "order"."""
        return self.time.unit


def read_log(run: Engine, log: Log, catalogue: pl.DataFrame, rules: Rules, *, folder: Path, work: Path) -> ReadLog:
    """Read a log, judge its rows, set the unusable aside, and make its labels where it has none.

    Parameters
    ----------
    run : Engine
        What works through the log.
    log : Log
        Where it is.
    catalogue : polars.DataFrame
        item (int32) and item_id.
    rules : Rules
        How it is read.
    folder : Path
        Where ``set_aside.parquet`` and ``set_aside_lines.parquet`` are written.
    work : Path
        Folder for what is made on the way.

    Raises
    ------
    UserError
        If the log cannot be read, or more than the allowed share of its rows is unusable.
    """
    found, columns = _opened(log, rules, work)
    where, total = str(log.place), found.rows
    table = run.read(found.parts, found.columns.values())
    understood = understand(
        run,
        table,
        columns,
        where,
        time_unit=rules.time_unit,
        day_first=rules.day_first,
        click_values=rules.click_values,
        match=rules.match_ids,
        bad_share=rules.max_bad_share,
    )
    known = run.frame("catalogue", catalogue.select("item", key=catalogue_keys(catalogue, rules.match_ids)))
    judged = run.keep("judged", values.judge(table, columns, known, understood))

    sound = judged.filter(judged.fault.isnull()).drop("fault")
    faulty = judged.filter(judged.fault.notnull()).select("row", reason="fault")
    users = run.keep("users", histories.numbered_users(sound)).rename(user="number")
    again = run.keep("again", values.repeated(sound))
    bad = run.keep("bad", faulty.union(again.select("row", reason=ibis.literal("duplicate row"))))
    aside = _set_aside(run, table, bad, found.broken, folder)
    if (bad_rows := sum(aside.values())) > rules.max_bad_share * total or bad_rows == total:
        shown = bad_examples(folder / "set_aside.parquet", found, columns, catalogue)
        refuse_above(rules.max_bad_share, aside, total, f"rows of {where}", "max_bad_share", shown)
        raise UserError(f"{where} has no usable impression among its {total} rows{reasons(aside, shown)}")

    good = sound.anti_join(again, "row").join(users, "user_id").drop("user_id")
    good = _labelled(run, good, understood, rules, where)
    kind = str(values.read_id("item_id", table[columns["item_id"]], understood).type().copy(nullable=True))
    return ReadLog(good, users, kind, total, aside, understood.time, [*found.notes, *understood.notes])


def _opened(log: Log, rules: Rules, work: Path) -> tuple[inputs.Found, dict[str, str]]:
    """A log as Parquet, a row an impression, and our names -> those of its columns there."""
    wanted = {*LOG_COLUMNS, *LOG_OPTIONAL, *log.columns.values()}
    found = inputs.as_parquet(
        log.place, work, "log", expected=wanted, form=log.form, given=log.given, wanted=wanted, memory=rules.memory
    )
    found = unfolded(found, log.columns, wanted, work, rules.memory)
    columns = {ours: found.columns[name] for ours, name in _resolve(found, log, rules).items()}
    if rules.rating_threshold is not None and (named := log.columns.get("click", "click")) in found.columns:
        found.notes.append(f"the column {named} is not used: clicks are ratings of --rating-threshold")
    files = list(dict.fromkeys(part.source for part in found.parts))
    if "timestamp" not in columns and len(files) > 1:
        found.notes.append(f"the files are taken in this order: {_in_short(files)}")
    return found, columns


def _in_short(files: list[Path]) -> str:
    """The first files and the last one, below the folder that all are in."""
    folder = os.path.commonpath([file.parent for file in files])
    names = [str(file.relative_to(folder)) for file in files]
    return ", ".join(names if len(names) <= FILES_NAMED else [*names[: FILES_NAMED - 1], "...", names[-1]])


def _resolve(found: inputs.Found, log: Log, rules: Rules) -> dict[str, str]:
    """Our names -> those of the log, by what the rules ask for."""
    rated = rules.rating_threshold is not None
    needed = [name for name in LOG_COLUMNS if name not in ("timestamp", "click")]
    needed += ["timestamp"] if rules.time_unit != "order" else []
    needed += ["rating"] if rated else [] if rules.unclicked else ["click"]
    optional = [name for name in (*LOG_COLUMNS, *LOG_OPTIONAL) if name not in needed]
    try:
        columns = resolve_columns(log.columns, list(found.columns), needed, optional, str(log.place))
    except UserError as error:
        hint = next((text for name, text in HINTS.items() if f"has no column '{name}';" in str(error)), "")
        raise UserError(f"{error}{hint}{nested_hint(found.parts, {*LOG_COLUMNS, *log.columns.values()})}") from None
    columns.pop("click" if rated else "rating", None)
    return columns


def _set_aside(run: Engine, table: ir.Table, bad: ir.Table, broken: pl.DataFrame, folder: Path) -> dict[str, int]:
    """Write the unusable rows, and add the lines to those of the item list; how many there are for each reason."""
    run.write(values.set_aside(table, bad), folder / "set_aside.parquet")
    lines = folder / "set_aside_lines.parquet"
    pl.concat([*([read_parquet(lines)] if lines.exists() else []), broken]).write_parquet(lines)
    rows = dict(run.rows(values.count_reasons(bad)).iter_rows())
    return rows | dict(Counter(broken["reason"].to_list()).most_common())


def _labelled(run: Engine, good: ir.Table, understood: Understood, rules: Rules, where: str) -> ir.Table:
    """The usable rows with clicks, where the log has ratings or clicks alone, and with the page views that it lacks."""
    if "rating" in good.columns:
        good = run.keep("rated", labels.from_ratings(good, rules.rating_threshold))
    if understood.some_requests:
        good = run.keep("requested", histories.with_requests(good, rules.gap(understood.time.unit), rules.page_slots))
    return _as_clicks(run, good, where) if rules.unclicked else good


def _as_clicks(run: Engine, good: ir.Table, where: str) -> ir.Table:
    """A log of clicks alone, each its own page view where the log has no request_id."""
    if "click" not in good.columns:
        good = good.mutate(click=ibis.literal(1, "int8"))
    elif run.rows(good.agg(shown=(good.click == 0).sum()))["shown"][0]:
        raise UserError(f"{where} has unclicked impressions itself; remove --unclicked")
    return good if "request_id" in good.columns else good.mutate(request_id=good.row)
