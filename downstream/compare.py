"""Compare embedding sources by the CTR models they feed, and write a report.

    python -m downstream.compare --config configs/compare/world.yaml --out results/world

OUT gets report.html (one file, no network), report.md, summary.png (one page for a mail) and figures.json. Each cell
(source, form, model, seed) is kept in the cache folder: the same command continues where it was interrupted.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from data_tools.common.cli import parse_settings, progress_bar, run_command
from data_tools.common.places import check_folder
from data_tools.common.provenance import made_by, this_command
from downstream.comparison.analysis import analyse
from downstream.comparison.cells import Row, run_cells
from downstream.comparison.cold_recall import cold_recall
from downstream.comparison.figures import Figures
from downstream.comparison.looks import part_of_test, register
from downstream.comparison.segment_gains import gains_by_segment
from downstream.comparison.settings import Settings, plan
from downstream.comparison.sources import Source, make_tables
from downstream.comparison.spec import ComparisonSpec
from downstream.comparison.tables import table_diagnostics
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.report.encoder_runs import encoder_runs
from downstream.report.page import report_context, write_page
from downstream.report.summary import write_summary


def compare(settings: Settings, command: str) -> str:
    """Run what is missing of a comparison and write its report; returns the verdict."""
    check_folder(settings.out)
    data = load_ctr_data(settings.dataset, settings.training.data)
    sources = {name: source or Source() for name, source in settings.sources.items()}
    tables = {name: make_tables(source, settings.data, settings.encoder_seeds) for name, source in sources.items()}
    out = Path(settings.out)
    cache = Path(settings.cache or Path("runs") / "compare" / out.name)
    spec = ComparisonSpec(
        settings.baseline, settings.main, list(settings.forms), settings.ceiling, settings.primary, settings.names
    )
    with progress_bar() as progress:
        rows = run_cells(plan(settings, tables), cache, data, settings.workers, progress)
        if settings.test_days:
            data, rows = part_of_test(data, rows, settings.test_days)
        figures = _figures(rows, data, spec, settings, progress=progress)
    runs, curves = encoder_runs(sources)
    looks = register(data, rows, spec, settings.title, len(figures.differences))
    figures = replace(figures, encoder_runs=runs, encoder_curves=curves, looks=looks, made_by=made_by(command))
    context = report_context(
        figures,
        rows,
        data,
        spec,
        title=settings.title,
        training=asdict(settings.training),
        pictured={source: list(own.values()) for source, own in tables.items()} if settings.pictures else {},
    )
    for name in ("report.html", "report.md"):
        write_page(out / name, f"{name}.j2", context)
    write_summary(out / "summary.png", figures, spec, context)
    figures.write(out / "figures.json")
    return " ".join(context["verdict"])


def _figures(
    rows: list[Row], data: CTRData, spec: ComparisonSpec, settings: Settings, *, progress: Progress
) -> Figures:
    """Everything that follows from the cells and their tables."""
    bootstrap = settings.bootstrap
    found = analyse(rows, data, spec, bootstrap, progress)
    segments = gains_by_segment(rows, data, spec, bootstrap, progress)
    tables, correlations = table_diagnostics(rows, data, spec, bootstrap.level, progress)
    recall = cold_recall(rows, data, spec, bootstrap)
    return replace(found, segments=segments, tables=tables, proxy_correlations=correlations, cold_recall=recall)


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    said = compare(settings, this_command(__spec__.name))
    console = Console()
    console.print(said)
    console.print(f"{settings.out}/report.html, report.md, summary.png, figures.json")


if __name__ == "__main__":
    run_command(main)
