"""Make a dataset of one's own log and images.

python -m data_tools.prepare --impressions log.csv --items items.csv --images pictures/ --out DATASET \\
    --columns user_id=player,item_id=game,timestamp=time,click=liked --item-columns item_id=game,image=cover

FILES. --impressions and --items take one file, a folder or a quoted glob ("logs/*.csv.gz") of CSV, TSV, JSON lines
(.jsonl) or Parquet; text may be compressed (.gz, .zst, .bz2). --images takes a folder, a tar, or a folder or glob of
tars; the column image of the item list says which file is an item's. Without that column, pictures are found by name:
the item id and an ending. An image column of bytes (Parquet) needs no --images.

COLUMNS. Those not named keep their names where these are ours already. Log: user_id, item_id, timestamp, click and,
where known, rating, request_id (one page view), scene, position, conversion, oracle. Item list: item_id and, where
known, image, title, category, first_seen; its other columns are carried along. Ids of text files are text ("007" is
not "7"), those of Parquet keep their type; the item ids of both are compared as text.

TIMES. ISO text ("2024-01-05T10:00:00Z"), dates, or numbers: seconds or milliseconds, told apart by their size; a log
has one unit. Only an order is known: --time-unit order.

LABELS. A column click of 0 and 1 or of true and false. Ratings: --rating-threshold 4, or --rating-threshold own_mean.
Clicks alone: --unclicked 4 --unclicked-from popularity draws items that the user never clicked, and says so ever after.

BAD INPUT. What cannot be used is counted, shown, and set aside in DATASET: set_aside.parquet (rows of the log),
set_aside_lines.parquet (lines that are no row), set_aside_items.parquet. Too much of it stops the job
(--max-bad-share).

SIZE. DuckDB works within --memory and spills to disk beside the output. --engine spark runs the same on Spark.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_tools.common import files
from data_tools.common.cli import parse_settings, run_command
from data_tools.dataset.schema import SPLITS
from data_tools.dataset.write import Rules, write_dataset
from data_tools.reading.columns import ITEM_COLUMNS, ITEM_OPTIONAL, LOG_COLUMNS, LOG_OPTIONAL, parse_columns
from data_tools.reading.item_list import read_items

console = Console()


@dataclass(kw_only=True)
class Settings(Rules):
    """What to make a dataset of.

    Attributes:
        impressions: The log, one row an impression: a file, a folder or a glob.
        items: The item list, one row an item: a file, a folder or a glob.
        images: The folder that the image paths of the item list start from, or tars.
        out: The dataset folder to make.
        columns: Our names for the columns of the log, as in user_id=player,click=liked.
        item_columns: Our names for the columns of the item list, as in item_id=game,image=cover.
        source: Where the data come from, for the record.
        licence: Under what terms, for the record.
    """

    impressions: str
    items: str
    images: str | None = None
    out: Path
    columns: str = ""
    item_columns: str = ""
    source: str = ""
    licence: str = ""


def prepare(settings: Settings) -> Path:
    """Make the dataset that the settings ask for; see :func:`write_dataset`."""
    columns = parse_columns(settings.columns, "--columns", (*LOG_COLUMNS, *LOG_OPTIONAL))
    item_columns = parse_columns(settings.item_columns, "--item-columns", (*ITEM_COLUMNS, *ITEM_OPTIONAL))
    info = {"source": settings.source, "licence": settings.licence}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out.parent, prefix=f".{settings.out.name}.items-") as work:
        listed = read_items(settings.items, item_columns, Path(work))
        images = listed.pictures or settings.images
        return write_dataset(
            settings.out, settings.impressions, listed.items, images, settings, columns, info, listed.broken
        )


def show(out: Path) -> None:
    """Print what a dataset holds and what was set aside."""
    info = files.read_json(out / "dataset.json")
    table = Table("what", "count", title=str(out), title_justify="left")
    table.columns[1].justify = "right"
    rows = info["counts"] | {split: info["splits"][split] for split in SPLITS}
    for section in ("set_aside", "set_aside_items", "bad_images"):
        rows |= {f"{section}: {reason}": count for reason, count in info[section].items()}
    for name, count in rows.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    console.print(table)
    if drawn := info["labels"]["unclicked_drawn"]:
        console.print(
            f"No impression without a click is real: {drawn['per_click']} a click were drawn ({drawn['from']})."
        )
    console.print(f"next: python -m data_tools.shards --dataset {out} --out {out.parent / 'shards'}", soft_wrap=True)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    show(prepare(settings))


if __name__ == "__main__":
    run_command(main)
