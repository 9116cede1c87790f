"""Make a dataset of one's own log and images.

python -m data_tools.prepare --impressions log.csv --items items.csv --images pictures/ --out DATASET \
    --columns user_id=player,item_id=game,timestamp=time,click=liked --item-columns item_id=game,image=cover

Columns not named keep their names where these are ours already: user_id, item_id, timestamp, click, request_id, scene,
position, conversion, oracle in the log; item_id, image, title, category, first_seen in the item list, whose other
columns are carried along. Ids of a CSV are text ("007" is not "7"), those of Parquet keep their type; the item ids of
both files are compared as text. What cannot be used is counted and set aside in DATASET/set_aside.parquet (rows of the
log) and DATASET/set_aside_items.parquet; too much of it stops the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_tools import behaviour_log, files
from data_tools.cli import parse_settings, run_command
from data_tools.dataset import Rules, write_dataset
from data_tools.schema import SPLITS

console = Console()


@dataclass(kw_only=True)
class Settings(Rules):
    """What to make a dataset of.

    Attributes:
        impressions: The log, one row an impression (.csv, .csv.gz or .parquet).
        items: The item list, one row an item (.csv, .csv.gz or .parquet).
        images: The folder that the image paths of the item list start from.
        out: The dataset folder to make.
        columns: Our names for the columns of the log, as in user_id=player,click=liked.
        item_columns: Our names for the columns of the item list, as in item_id=game,image=cover.
        source: Where the data come from, for the record.
        licence: Under what terms, for the record.
    """

    impressions: Path
    items: Path
    images: Path
    out: Path
    columns: str = ""
    item_columns: str = ""
    source: str = ""
    licence: str = ""


def prepare(settings: Settings) -> Path:
    """Make the dataset that the settings ask for; see :func:`write_dataset`."""
    log_names = (*behaviour_log.LOG_COLUMNS, *behaviour_log.LOG_OPTIONAL)
    item_names = (*behaviour_log.ITEM_COLUMNS, *behaviour_log.ITEM_OPTIONAL)
    columns = behaviour_log.parse_columns(settings.columns, "--columns", log_names)
    item_columns = behaviour_log.parse_columns(settings.item_columns, "--item-columns", item_names)
    items = behaviour_log.read_items(settings.items, item_columns)
    info = {"source": settings.source, "licence": settings.licence}
    return write_dataset(settings.out, settings.impressions, items, settings.images, settings, columns, info)


def _show(out: Path) -> None:
    info = files.read_json(out / "dataset.json")
    table = Table("what", "count", title=str(out), title_justify="left")
    table.columns[1].justify = "right"
    rows = info["counts"] | {split: info["splits"][split] for split in SPLITS}
    for section in ("set_aside", "set_aside_items", "bad_images"):
        rows |= {f"{section}: {reason}": count for reason, count in info[section].items()}
    for name, count in rows.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    console.print(table)
    if info["page_views"]["from"] == "gap" and info["time_range"][0] > 100_000_000_000:
        console.print("The timestamps look like milliseconds: page_gap is in the same unit.")
    console.print(f"next: python -m data_tools.shards --dataset {out} --out {out.parent / 'shards'}", soft_wrap=True)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    _show(prepare(settings))


if __name__ == "__main__":
    run_command(main)
