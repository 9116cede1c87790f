"""What sharing brings where data are few: several tasks, or several scenes, over one look-up table.

    python -m downstream.transfer --config configs/downstream/tasks.yaml --out results/ranking/tasks
    python -m downstream.transfer --config configs/downstream/scenes.yaml --out results/ranking/scenes

With ``kind: tasks``, models of conversions against separate ones: one of the conversions over all impressions, one of
the purchases over the clicks, and its product with one of the clicks. With ``kind: scenes``, models of several scenes
against a model a scene ("separate") and one model that does not see the scene ("merged"). OUT gets report.md and
figures.json. Every training is cached: an interrupted command continues.
"""

from __future__ import annotations

from rich.console import Console

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.places import check_folder
from data_tools.common.provenance import this_command
from downstream.data.ctr_data import load_ctr_data
from downstream.studies.transfer import TransferSettings as Settings
from downstream.studies.transfer import measure, write_report


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    check_folder(settings.out)
    data = load_ctr_data(settings.dataset, settings.training.data)
    with progress_bar() as progress:
        figures = measure(data, settings, progress)
    write_report(figures, data, settings, this_command(__spec__.name))
    Console().print(f"{settings.out}/report.md, figures.json")


if __name__ == "__main__":
    run_command(main)
