# PYTHON_ARGCOMPLETE_OK
"""What a dataset looks like, and what to know before training on it.

python -m data_tools.inspect --dataset runs/world/dataset --out page.html

Prints a summary: sizes, click rate, splits, pictures (missing, blank, the same under several ids), and warnings, each
with what was found, why it matters and what to do. --out writes the same with charts and pictures as one
self-contained HTML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.files import whole_file
from data_tools.common.places import check_file
from data_tools.dataset.schema import Dataset, open_dataset
from data_tools.inspection.advice import Seen
from data_tools.inspection.log import log_facts
from data_tools.inspection.page import page
from data_tools.inspection.pictures import look_at_pictures
from data_tools.inspection.summary import print_summary

console = Console()


@dataclass(frozen=True)
class Settings:
    """What to inspect.

    Attributes
    ----------
    dataset : str
        Dataset folder, as prepare writes it.
    out : str or null
        HTML page to write.
    """

    dataset: str
    out: str | None = None


def inspect(dataset: Dataset) -> Seen:
    """Gather the facts of a dataset's log and of its pictures."""
    with console.status("reading the log"):
        log = log_facts(dataset)
    return Seen(dataset.info, log, look_at_pictures(dataset))


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    check_file(settings.out or "")
    dataset = open_dataset(settings.dataset)
    seen = inspect(dataset)
    print_summary(seen, console)
    if settings.out:
        with whole_file(Path(settings.out)) as scratch:
            scratch.write_text(page(dataset, seen), encoding="utf-8")
        console.print(f"\npage: {settings.out}")


if __name__ == "__main__":
    run_command(main)
