"""Read a log: which column is which, every row judged, the unusable set aside, and labels where it has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import polars as pl
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.dataset.rules import Rules, refuse_above
from data_tools.log import histories, labels, values
from data_tools.log.engines import ROW, Engine
from data_tools.reading import inputs
from data_tools.reading.columns import LOG_COLUMNS, LOG_OPTIONAL, resolve_columns

HINTS = {
    "click": "\n  Ratings instead: --rating-threshold 4. Clicks alone: --unclicked 4 draws unclicked items.",
    "timestamp": "\n  No times at all: --time-unit order takes the order of the rows.",
}


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
        Of text files whose name does not tell it.
    """

    place: str | Path
    columns: Mapping[str, str]
    form: inputs.Form | None = None


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
    unit : str
        Unit of the times.
    """

    good: ir.Table
    users: ir.Table
    id_kind: str
    rows: int
    aside: dict[str, int]
    unit: str


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
    wanted = {*LOG_COLUMNS, *LOG_OPTIONAL, *log.columns.values()}
    paths, broken = inputs.as_parquet(log.place, work, "log", log.form, wanted, rules.memory)
    where, total = str(log.place), sum(pq.read_metadata(path).num_rows for path in paths) + len(broken)
    table = run.read(paths)
    columns = _resolve([name for name in table.columns if name != ROW], log, rules)
    keys = catalogue.select("item", key=pl.col("item_id").cast(pl.String))
    known = run.frame("catalogue", keys)
    judged = run.keep("judged", values.judge(table, columns, known, rules.time_unit, where))

    sound, unit, faulty = _one_unit(run, judged, rules, where)
    users = run.keep("users", histories.numbered_users(sound)).rename(user="number")
    again = run.keep("again", values.repeated(sound))
    bad = run.keep("bad", faulty.union(again.select("row", reason=ibis.literal("duplicate row"))))
    aside = _set_aside(run, table, bad, broken, folder)
    refuse_above(rules.max_bad_share, aside, total, f"rows of {where}", "max_bad_share")
    if total == sum(aside.values()):
        raise UserError(f"{where} has no usable impression among its {total} rows")

    good = sound.anti_join(again, "row").join(users, "user_id").drop("user_id")
    if "rating" in columns:
        good = run.keep("rated", labels.from_ratings(good, rules.rating_threshold))
    if rules.unclicked:
        good = _as_clicks(run, good, where)
    kind = str(table[columns["item_id"]].type().copy(nullable=True))
    return ReadLog(good, users, kind, total, aside, unit)


def _resolve(found: Sequence[str], log: Log, rules: Rules) -> dict[str, str]:
    """Our names -> those of the log, by what the rules ask for."""
    rated = rules.rating_threshold is not None
    needed = [name for name in LOG_COLUMNS if name not in ("timestamp", "click")]
    needed += ["timestamp"] if rules.time_unit != "order" else []
    needed += ["rating"] if rated else [] if rules.unclicked else ["click"]
    optional = [name for name in (*LOG_COLUMNS, *LOG_OPTIONAL) if name not in needed]
    try:
        columns = resolve_columns(log.columns, found, needed, optional, str(log.place))
    except UserError as error:
        hint = next((text for name, text in HINTS.items() if f"has no column '{name}';" in str(error)), "")
        raise UserError(f"{error}{hint}") from None
    columns.pop("click" if rated else "rating", None)
    return columns


def _one_unit(run: Engine, judged: ir.Table, rules: Rules, where: str) -> tuple[ir.Table, str, ir.Table]:
    """The sound rows, the unit of their times, and the others (row, reason), those of another unit among them."""
    sound = judged.filter(judged.fault.isnull()).drop("fault")
    faulty = judged.filter(judged.fault.notnull()).select("row", reason="fault")
    if rules.time_unit != "auto":
        return sound, rules.time_unit, faulty
    unit = _most_frequent_unit(run, sound, where)
    other = values.time_unit(sound.timestamp) != unit
    faulty = faulty.union(sound.filter(other).select("row", reason=ibis.literal("timestamp in another unit")))
    return sound.filter(~other), unit, faulty


def _most_frequent_unit(run: Engine, sound: ir.Table, where: str) -> str:
    units = sound.group_by(unit=values.time_unit(sound.timestamp)).agg(rows=sound.count())
    found = run.rows(units).sort("rows", "unit", descending=True)
    if not len(found):
        return "seconds"
    if (unit := found["unit"][0]) not in ("seconds", "milliseconds"):
        raise UserError(f"the times of {where} look like {unit}; give seconds or milliseconds, or set --time-unit")
    return unit


def _set_aside(run: Engine, table: ir.Table, bad: ir.Table, broken: pl.DataFrame, folder: Path) -> dict[str, int]:
    """Write the unusable rows and lines; how many there are for each reason."""
    run.write(values.set_aside(table, bad), folder / "set_aside.parquet")
    broken.write_parquet(folder / "set_aside_lines.parquet")
    rows = dict(run.rows(values.count_reasons(bad)).iter_rows())
    return rows | dict(Counter(broken["reason"].to_list()).most_common())


def _as_clicks(run: Engine, good: ir.Table, where: str) -> ir.Table:
    """A log of clicks alone, each a page view of its own where the log has no request_id."""
    if "click" not in good.columns:
        good = good.mutate(click=ibis.literal(1, "int8"))
    elif run.rows(good.agg(shown=(good.click == 0).sum()))["shown"][0]:
        raise UserError(f"{where} has unclicked impressions itself; remove --unclicked")
    return good if "request_id" in good.columns else good.mutate(request_id=good.row)
