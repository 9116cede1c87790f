"""The first rows and lines that were set aside, with their files, and what would fix them: for messages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from data_tools.common.hints import hint
from data_tools.common.lists import with_commas
from data_tools.common.parquet import scan_parquet
from data_tools.log.understood import UNSEEN
from data_tools.log.values import OTHER_UNIT
from data_tools.reading import lines
from data_tools.reading.columns import ITEM_OPTIONAL, free_names, no_header
from data_tools.reading.form import COMMA, POINT
from data_tools.reading.inputs import Found
from data_tools.reading.opened import is_parquet
from data_tools.reading.parts import Part, nested_hint

# The day of a week or of a year -> how polars reads it.
DAYS = {r"\d{4}-W\d\d-[1-7]": "%G-W%V-%u", r"\d{4}W\d\d[1-7]": "%GW%V%u", r"\d{4}-\d{3}(?!\d)": "%Y-%j"}
ZONE = r"\d ?([A-Z]{3,5})\s*$"
SHOWN = 3  # of each reason
MOST_READ = 300_000  # rows, to find the line of one
LOOKED_AT = 10_000  # ids, values
WIDTH = 80  # characters of a broken line
OBJECTS = r"^\s*\[?\s*\{"  # in JSON
MOST_SHOWN = 200  # characters of a value
ALIKE = 0.5  # of ids that would match in another form, for that to be said
# What to do about rows that are set aside for a reason, where that does not depend on their values.
ADVICE = {
    "duplicate row": "its user, item and time stand in a row above: a column request_id tells them apart, or times in "
    "milliseconds, the finest that are kept",
    OTHER_UNIT: "all times must have one unit, and most of them have another",
    "click missing": "must be 1 for a click and 0 for none",
    "conversion not 0 or 1": "must be 0 or 1, true or false, yes or no; or empty where it is not known",
    "oracle not in [0, 1]": "must be a probability, or empty where it is not known",
    "position unreadable": "must be a whole number, or empty where it is not known",
}


def broken_examples(broken: pl.DataFrame) -> dict[str, list[str]]:
    """Reason -> the first of its lines, and how to fix them."""
    shown: dict[str, list[str]] = {}
    for reason, file, line, text in broken.iter_rows():
        own = shown.setdefault(reason, [])
        if len(own) < SHOWN:
            own.append(f"{file}, line {line}: {text[:WIDTH]}")
    return {reason: [*own, *lines.advice(reason)] for reason, own in shown.items()}


def item_examples(bad: pl.DataFrame, kept: pl.DataFrame | None = None) -> dict[str, list[str]]:
    """Reason -> the first of the items set aside for it, and how to fix them; ``kept`` are the others."""
    shown: dict[str, list[str]] = {}
    for row in bad.group_by("reason", maintain_order=True).head(SHOWN).iter_rows(named=True):
        values = ", ".join(f"{name} {value!r}" for name, value in row.items() if name != "reason" and value is not None)
        shown.setdefault(row["reason"], []).append(values[:WIDTH])
    if (reason := "item_id repeated") in shown:
        shown[reason].append(
            "the lines of an item may differ in image alone: each names a picture, and an empty cell means the same as "
            "in the first line"
        )
        if names := [] if kept is None else _differing(bad, kept):
            shown[reason].append(
                f"these differ in {', '.join(names)}{'' if {*names} & {*ITEM_OPTIONAL} else _without(names)}"
            )
    return shown


def _without(names: Sequence[str]) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    return (
        '; without these columns they are one item: python -c \'import polars as p; p.read_csv("OLD.csv", '
        f'infer_schema=False).drop({columns}).write_csv("NEW.csv")\''
    )


def _differing(bad: pl.DataFrame, kept: pl.DataFrame) -> list[str]:
    """The columns in which lines that repeat an item differ from the line that is kept of it."""
    names = [name for name in bad.columns if name in kept.columns and name not in ("item_id", "image", "images")]
    pairs = bad.head(LOOKED_AT).join(kept.select("item_id", *names), on="item_id", suffix="__kept__")
    differ = (pl.col(name).is_not_null() & pl.col(name).hash().ne(pl.col(f"{name}__kept__").hash()) for name in names)
    found = pairs.select(**{name: one.any() for name, one in zip(names, differ, strict=True)})
    return [name for name in names if found[name].item()]


def row_examples(aside: Path, found: Found, columns: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> file, line and value of the first of its rows.

    Parameters
    ----------
    aside : Path
        The rows set aside, as :func:`data_tools.log.values.set_aside` gives them.
    found : Found
        The log.
    columns : dict of str to str
        Our names -> those in the parts.
    """
    kept = free_names(found.columns.values(), ("reason", "input_row"))
    users = {inside: user for user, inside in found.columns.items()}
    first = scan_parquet(aside).group_by("reason", maintain_order=True).head(SHOWN).collect()
    shown: dict[str, list[str]] = {}
    for row in first.iter_rows(named=True):
        ours, (place, part) = column_of(row["reason"]), _place(found, row["input_row"])
        said = "" if ours not in columns else f": {users[columns[ours]]} {_short(row[kept[columns[ours]]])}"
        if part and ours in columns and columns[ours] not in {*part.names, *part.keys}:
            names = [users[name] for name in pq.read_schema(part.path).names if name in users]
            said = f": this file has no column '{users[columns[ours]]}' but {names}{no_header(names)}"
        shown.setdefault(row["reason"], []).append(f"{place}{said}")
    return shown


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def bad_examples(
    aside: Path, found: Found, columns: Mapping[str, str], known: pl.DataFrame | None = None
) -> dict[str, list[str]]:
    """Reason -> the first rows and lines set aside for it, and how to fix them.

    Parameters
    ----------
    aside, found, columns
        See :func:`row_examples`.
    known : polars.DataFrame, optional
        The item list, with ``item_id``.
    """
    shown = row_examples(aside, found, columns) | broken_examples(found.broken)
    kept, rows = free_names(found.columns.values(), ("reason", "input_row")), scan_parquet(aside)
    hints: dict[str, Callable[[pl.Series], list[str]]] = {
        "click not 0 or 1": label_hint,
        "rating no number": rating_hint,
        "timestamp unreadable": time_hint,
        "timestamp missing or unreadable": time_hint,
    }
    hints |= {} if known is None else {"item unknown": partial(id_hint, known=known)}
    for reason in shown.keys() & hints.keys():
        column = kept[columns[column_of(reason)]]
        held = rows.filter(pl.col("reason") == reason).select(column).head(MOST_READ).collect()
        shown[reason] += hints[reason](held.to_series())
        if reason == "item unknown" and held.to_series().cast(pl.String).str.contains(OBJECTS).any():
            shown[reason].append(nested_hint(found.parts, {kept[columns["item_id"]]}).strip())
    return {reason: [*own, *([ADVICE[reason]] if reason in ADVICE else [])] for reason, own in shown.items()}


def column_of(reason: str) -> str:
    """Our name of the column that a reason is about."""
    return "item_id" if reason == "item unknown" else reason.partition(" ")[0]


def _place(found: Found, row: int) -> tuple[str, Part | None]:
    """File and line, or row, of a row of the log, and its part."""
    before = dict.fromkeys((part.source for part in found.parts), 0)
    for part in found.parts:
        rows = pq.read_metadata(part.path).num_rows
        if row < rows:
            number = before[part.source] + row
            line = next(islice(_line_numbers(part, found), number, None), None) if number < MOST_READ else None
            return f"{part.source}, " + (f"row {number + 1}" if line is None else f"line {line}"), part
        row, before[part.source] = row - rows, before[part.source] + rows
    return "", None


def _line_numbers(part: Part, found: Found) -> Iterator[int]:
    """The line of each row of a text file, in the order of its rows."""
    if part.unfolded or is_parquet(part.source):
        return
    if part.form is None:
        yield from (one.number for one in lines.json_objects(part.source) if one.row is not None)
        return
    users = {inside: user for user, inside in found.columns.items()}
    names = [users[name] for name in pq.read_schema(part.path).names if name in users]
    for one in lines.delimited(part.source, part.form, len(names)):
        if one.row is None or not any(value and value.strip() for value in one.row):
            continue
        if part.form.names or [str(value).strip() for value in one.row] != names:
            yield one.number


def label_hint(values: pl.Series) -> list[str]:
    """What to do about labels that are neither 0 nor 1."""
    counts = values.drop_nulls().value_counts(sort=True).head(8)
    if counts[:, 0].cast(pl.String).str.contains(COMMA).all():
        return [POINT]
    seen = ", ".join(f"{value} ({count:,})" for value, count in counts.iter_rows())
    rarest = shlex.quote(with_commas([str(counts[-1, 0])]))
    return [
        f"values: {seen}; say which are clicks, as in --click-values {rarest}"
        + hint(". Where they count clicks or are ratings, name the column rating and set --rating-threshold 1")
    ]


def rating_hint(values: pl.Series) -> list[str]:
    """What ratings must look like."""
    cells = values.drop_nulls().cast(pl.String)
    return [POINT if len(cells) and cells.str.contains(COMMA).all() else "must be a number alone, such as 3.5"]


def _day_hint(cell: str, column: str) -> str | None:
    """What makes a date of a week's day or of a year's, such as 2024-W05-3 and 2024-032."""
    ways = ((how, found) for pattern, how in DAYS.items() if (found := re.match(pattern, cell)))
    how, found = next(ways, ("", None))
    if found is None:
        return None
    length, name = found.end(), f'p.col("{column}").str'
    return (
        f"{found[0]} is the day of a week or of a year; write its date: python -c 'import polars as p; "
        'p.read_csv("OLD.csv", infer_schema=False).with_columns('
        f'{name}.head({length}).str.to_date("{how}").cast(p.String) + {name}.slice({length})).write_csv("NEW.csv")\''
    )


def time_hint(values: pl.Series) -> list[str]:
    """What times must look like."""
    cell = next((str(one) for one in values if one is not None and str(one).strip()), "")
    if re.fullmatch(r"\d{1,3}([,.' ]\d{3}){2,}", cell.strip()):
        return ["the thousands of a number must have nothing between them"]
    if re.search(COMMA, cell):
        return [POINT]
    if day := _day_hint(cell.strip(), values.name):
        return [day]
    if re.match(r"\d{4}-", cell.strip()) and not 1900 <= int(cell.strip()[:4]) < 2100:
        return ["no log has times from there: leave the time out where it is not known"]
    if re.match(r"\d{1,2}[-/.](\d{1,2}|[A-Za-z]{3})[-/.]\d{2}\b", cell.strip()):
        return [
            "years must have four digits; where they stand last: "
            r"sed -E 's#([0-9]{1,2}[-/.][0-9A-Za-z]{1,3}[-/.])([0-9]{2})\b#\120\2#' OLD.csv > NEW.csv"
        ]
    if zone := re.search(ZONE, cell):
        return [
            f"{zone[1]} is the name of several zones; write the hours ahead of UTC, or Europe/Berlin and the like: "
            f"sed 's/{zone[1]}/+01:00/' OLD.csv > NEW.csv"
        ]
    return [
        "expected: seconds, milliseconds, microseconds or nanoseconds since 1970; 2023-12-25, 25/12/2023, 25 Dec 2023 "
        "or 20231225, with or without a time (15:04, 3:04 PM) and a zone (Z, +02:00, Europe/Berlin); or Excel's days"
    ]


def id_hint(unknown: pl.Series, known: pl.DataFrame) -> list[str]:
    """How ids of the log that the item list lacks would match some that it has, or stand in another of its columns."""
    ids = known["item_id"].cast(pl.String).drop_nulls()
    if alike := alike_ids(unknown, ids):
        return [alike[1]]
    shown = f"the item list has ids such as {ids.head(SHOWN).to_list()}"
    wanted = unknown.drop_nulls().cast(pl.String).unique().sort().head(LOOKED_AT)
    for name in known.columns:
        kind = known[name].dtype
        if name not in ("item", "item_id") and (kind == pl.String or kind.is_integer()):
            own = wanted.str.replace("^0+(.)", "${1}") if kind.is_integer() else wanted  # read as numbers
            share = own.is_in(known[name].cast(pl.String).drop_nulls().implode()).mean()
            if share and share > ALIKE:
                named = hint(f": --item-columns item_id={name}")
                return [f"{shown}; {share:.0%} of these stand in its column {name}{named}"]
    return [shown]


def alike_ids(unknown: pl.Series, known: pl.Series) -> tuple[float, str] | None:
    """The share of unknown ids that would match known ones in another form, and which form that is; None for none."""
    ids, known = unknown.drop_nulls().cast(pl.String).unique().sort().head(LOOKED_AT), known.cast(pl.String)
    changes = {
        "without blanks round them" + hint(": --match-ids stripped"): lambda ids: ids.str.strip_chars(),
        "without zeros in front" + hint(": --match-ids unpadded"): (
            lambda ids: ids.str.strip_chars().str.replace("^0+(.)", "${1}")
        ),
        "without the quotes round them: write them without": lambda ids: ids.str.strip_chars("='\"`"),
        "in one Unicode form: write them in NFC": lambda ids: ids.str.normalize("NFC"),
        "without the characters in them that are not seen, such as zero bytes: leave these out": (
            lambda ids: ids.str.replace_all(UNSEEN, "")
        ),
        "without separators of thousands: write numbers without": lambda ids: ids.str.replace_all(
            "[,.' ]([0-9]{3})", "$1"
        ),
        "without what stands before their last / or colon: leave it out": lambda ids: ids.str.replace("^.*[/:]", ""),
        "if upper and lower case were alike: write them in one": lambda ids: ids.str.strip_chars().str.to_lowercase(),
        "without .0 behind: store ids as text or as integers": lambda ids: ids.str.replace(r"[.]0+$", ""),
        "without the label behind them: write it in a column click": lambda ids: ids.str.replace("-[01]$", ""),
        "if each row held one of them: write a row an item, or a label for each": (
            lambda ids: ids.str.strip_chars().str.replace(r"[\s,;|].*$", "")
        ),
    }
    for how, change in changes.items():
        own, theirs = change(ids), change(known)
        matching = own.is_in(theirs.implode())
        if matching.any():
            at = int(matching.arg_max())
            pair = known[int((theirs == own[at]).arg_max())]
            share = float(matching.mean())
            return share, f"{share:.0%} of these ids would match {how}; {ids[at]!r} and {pair!r} for example"
    return None


def nearly_known(what: str, unknown: pl.Series, known: pl.Series) -> list[str]:
    """What is worth saying of ids of a log that a dataset lacks: that most would match in another form."""
    alike = alike_ids(unknown, known)
    if alike is None or alike[0] < ALIKE:
        return []
    return [f"{len(unknown):,} {what} of the log are not in the dataset: {alike[1]}"]
