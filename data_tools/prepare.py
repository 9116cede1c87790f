# PYTHON_ARGCOMPLETE_OK
"""Make a dataset of your own log and images.

python -m data_tools.prepare --impressions log.csv --items items.csv --images pictures/ --out DATASET \\
    --columns user_id=player,item_id=game,timestamp=time,click=liked --item-columns item_id=game,image=cover

FILES. --impressions and --items take one file, a folder or a quoted glob ("logs/*.csv.gz") of CSV, TSV, JSON lines
(.jsonl) or Parquet; text may be compressed (.gz, .zst, .bz2). --images takes a folder, a tar, or a folder or glob of
tars; the item list's column image names each item's file. Without that column, pictures are found by name: the item id
and an ending. An image column of bytes (Parquet) needs no --images. An item may have several pictures: image is a list
(of Parquet, of JSON, or text such as ["a.jpg", "b.jpg"]), or rows repeat the item with another image. All
of these, and --out, may be URLs: s3://, gs://, hf://; https:// to read (docs/pictures-in-a-bucket.md).

COLUMNS. Columns that already have our names need no mapping. Log: user_id, item_id, timestamp, click and, where known,
rating, request_id (one page view), scene, position, conversion, oracle. Item list: item_id and, where known, image,
title, category, first_seen; its other columns are carried along. Several columns make a category:
category=type+section. Ids of text files are text ("007" is not "7"), those of Parquet keep their type; the item
ids of both are compared as text.

USERS. --user-table users.csv adds what is known of users: one row per user with user_id and columns of any names, such
as age and country. CTR models put numbers of many values into ten equally full bins; all else is a category.

TIMES. ISO text ("2024-01-05T10:00:00Z"), dates, or numbers: seconds or milliseconds, recognised by their size; a log
has one unit. Of fractions of a second, milliseconds are kept. If only an order is known: --time-unit order.

LABELS. A column click of 0 and 1 or of true and false. Ratings: --rating-threshold 4, or --rating-threshold own_mean.
Events: --click-values purchase,add_to_cart, one that holds a comma in double quotes: --click-values '"sold, online"'.
Clicks alone: --unclicked 4 --unclicked-from category_popularity draws items that the user did not click; every report
says so. --unclicked-unlike product leaves out other colours of the clicked product.

BAD INPUT. What cannot be used is counted, shown, and set aside in DATASET: set_aside.parquet (rows of the log),
set_aside_lines.parquet (lines that cannot be read as a row), set_aside_items.parquet. Too much of it stops the job
(--max-bad-share).

SIZE. DuckDB works within --memory and spills to disk next to the output. --engine spark does the same on Spark.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.errors import UserError
from data_tools.common.files import work_folder
from data_tools.dataset.category import with_category
from data_tools.dataset.read_log import Log
from data_tools.dataset.rules import Rules
from data_tools.dataset.show import show
from data_tools.dataset.write import write_dataset
from data_tools.reading.columns import ITEM_COLUMNS, ITEM_OPTIONAL, LOG_COLUMNS, LOG_OPTIONAL, parse_columns
from data_tools.reading.form import Given, LogForm, given_form
from data_tools.reading.item_list import read_items
from data_tools.reading.user_list import USER_COLUMNS, UserTable, read_users


@dataclass(frozen=True, kw_only=True)
class Settings(Rules, LogForm, UserTable):
    """Input, output, and how the log becomes a dataset.

    Attributes
    ----------
    impressions : str
        The log, one row per impression: a file, a folder or a glob.
    items : str
        The item list, one row per item: a file, a folder or a glob.
    images : str or null
        Folder that the image paths of the item list start from, or tars.
    out : Path
        Dataset folder to make, or its URL.
    item_columns : str
        Our names for the item list's columns, as in item_id=game,image=cover.
    item_encoding : str
        As encoding, of the item list.
    item_delimiter : str
        As delimiter, of the item list.
    item_header : str
        As header, of the item list.
    source : str
        Where the data come from, for the record.
    licence : str
        Their licence, for the record.
    """

    impressions: str
    items: str
    images: str | None = None
    out: Path
    item_columns: str = ""
    item_encoding: str = ""
    item_delimiter: str = ""
    item_header: str = ""
    source: str = ""
    licence: str = ""

    @property
    def item_form(self) -> Given:
        """What was given about the form of the item list's text files."""
        return given_form(self.item_encoding, self.item_delimiter, self.item_header)


def prepare(settings: Settings) -> Path:
    """Make the dataset that the settings ask for; see :func:`write_dataset`."""
    columns = parse_columns(settings.columns, "--columns", (*LOG_COLUMNS, *LOG_OPTIONAL))
    item_columns = parse_columns(settings.item_columns, "--item-columns", (*ITEM_COLUMNS, *ITEM_OPTIONAL))
    category = item_columns.pop("category") if "+" in item_columns.get("category", "") else None
    user_columns = parse_columns(settings.user_columns, "--user-columns", USER_COLUMNS)
    if not settings.user_table and (user_columns or settings.user_form != Given()):
        given = "--user-columns" if user_columns else "the form of a table of users"
        raise UserError(f"{given} is given, but there is no --user-table: remove it")
    with work_folder(settings.out) as work:
        users = None
        if settings.user_table:
            users = read_users(settings.user_table, user_columns, work, settings.user_form)
        listed = read_items(settings.items, item_columns, work, given=settings.item_form)
        items = listed.items
        if category:
            items = with_category(items, category, item_columns, settings.items)
        return write_dataset(
            settings.out,
            Log(settings.impressions, columns, given=settings.log_form),
            items,
            listed.pictures or settings.images,
            rules=settings,
            info={"source": settings.source, "licence": settings.licence},
            broken_items=listed.broken,
            users=users,
            notes=[*listed.notes, *(users.notes if users else [])],
        )


def main() -> None:
    show(prepare(parse_settings(Settings, __doc__)))


if __name__ == "__main__":
    run_command(main)
