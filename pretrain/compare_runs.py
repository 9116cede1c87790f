"""Finished runs in one table: page AUC, effective rank and time of each objective over its seeds.

    python -m pretrain.compare_runs --runs 'runs/objectives/*' --out results/objectives/runs.md

Runs that differ in seed and folder alone are one line: mean and standard deviation over the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.files import whole_file
from data_tools.common.places import check_file
from data_tools.common.provenance import this_command
from pretrain.pages.comparison import finished_runs, markdown


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Runs to compare.

    Attributes
    ----------
    runs : str
        Run folders: a glob, or several separated by commas.
    out : str or None
        A Markdown file to write the table to, besides printing it.
    """

    runs: str
    out: str | None = None


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    check_file(settings.out or "")
    text = markdown(finished_runs(settings.runs), this_command(__spec__.name))
    Console().print(text, soft_wrap=True, highlight=False, markup=False)
    if settings.out:
        with whole_file(Path(settings.out)) as scratch:
            scratch.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
