"""A cascade on logged requests: Qscore -> pre-ranker -> ranker, with IDs only and with images.

    python -m downstream.cascade --config configs/downstream/cascade.yaml --out results/ranking/cascade

Candidates of a request are the items that exist at its time. The best are those that the ranker would put first if it
scored every candidate; each stage is measured by the share of them that it keeps, by its GAUC on the logged
impressions, by its time and by its multiply-adds. OUT gets report.html, report.md and figures.json. Models that the
cache folder lacks are trained, as runs of ``downstream.train``.
"""

from __future__ import annotations

from rich.console import Console

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.places import check_folder
from data_tools.common.provenance import this_command
from downstream.studies.cascade import CascadeSettings as Settings
from downstream.studies.cascade import run, write_report


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    check_folder(settings.out)
    with progress_bar() as progress:
        figures, data = run(settings, progress)
    verdict = write_report(figures, data, settings, this_command(__spec__.name))
    Console().print("\n".join(verdict))
    Console().print(f"{settings.out}/report.html, report.md, figures.json")


if __name__ == "__main__":
    run_command(main)
