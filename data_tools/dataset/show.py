"""What a dataset holds, in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.dataset.schema import SPLITS, open_dataset

console = Console()


def show(out: Path) -> None:
    """Print what a dataset holds, what was set aside, and the next command."""
    info = open_dataset(out).info
    table = Table("what", "count", title=Text(str(out)), title_justify="left")
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
        console.print(
            f"The unclicked items are drawn, {drawn['per_click']} for each click ({drawn['from']}); none were observed."
        )
    console.print(
        f"next: python -m data_tools.shards --dataset {out} --out {out.parent / 'shards'}", soft_wrap=True, markup=False
    )
