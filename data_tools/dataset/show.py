"""What a dataset holds, in the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.common.output import log_event
from data_tools.common.storage import shown
from data_tools.dataset.schema import SPLITS, open_dataset

console = Console()


def show(out: Path) -> None:
    """Print what a dataset holds, what was set aside, and the next command."""
    info = open_dataset(out).info
    known = ("counts", "splits", "set_aside", "set_aside_items", "bad_images", "labels", "fingerprint")
    log_event("dataset", folder=shown(out), **{name: info[name] for name in known})
    table = Table("what", "count", title=Text(shown(out)), title_justify="left")
    table.columns[1].justify = "right"
    rows = info["counts"] | {split: info["splits"][split] for split in SPLITS}
    for section in ("set_aside", "set_aside_items", "bad_images"):
        rows |= {f"{section}: {reason}": count for reason, count in info[section].items()}
    for name, count in rows.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    console.print(table)
    if info["dates"][0]:
        console.print(f"from {info['dates'][0]} to {info['dates'][1]} (UTC)")
    for note in info["understood"]:
        console.print(f"understood: {note}", soft_wrap=True, markup=False)
    if drawn := info["labels"]["unclicked_drawn"]:
        said = f"Unclicked items are drawn, not observed: {drawn['per_click']} for each click ({drawn['from']})"
        console.print(f"{said}; {drawn['not_found']:,} draws found none.", soft_wrap=True)
    dataset, shards = (shlex.quote(shown(path)) for path in (out, out.parent / "shards"))
    console.print(
        f"next: python -m data_tools.shards --dataset {dataset} --out {shards}",
        soft_wrap=True,
        markup=False,
    )
