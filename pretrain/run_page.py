"""A run as one HTML page: loss against chance, collapse curves, validation, neighbours, and what attention looked at.

python -m pretrain.run_page --run runs/my-run        # writes runs/my-run/run.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import NonNegativeInt
from rich.console import Console

from data_tools.common.checks import Checked, Seed
from data_tools.common.cli import parse_settings, run_command
from pretrain.pages.run import write_page


@dataclass(frozen=True)
class Settings(Checked):
    """Write a run's page.

    Attributes
    ----------
    run : str
        Finished or running pre-training run.
    data : str or None
        Shards; null takes those the run was trained on.
    examples : int
        Rows in the drawings of neighbours and of attention.
    seed : int
        Seed of the sample of pictures and page views.
    """

    run: str
    data: str | None = None
    examples: NonNegativeInt = 6
    seed: Seed = 0


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    path = write_page(Path(settings.run), settings.data, settings.examples, settings.seed)
    Console().print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    run_command(main)
