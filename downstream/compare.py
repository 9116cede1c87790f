"""Compare embedding sources by the CTR models they feed, and write a report.

    python -m downstream.compare --config configs/compare/world.yaml --out results/world

OUT gets report.html (one file, no network), report.md and figures.json. Each cell (source, form, model, seed) is kept
in the cache folder, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from data_tools.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.files import whole_file, write_json
from data_tools.provenance import commit, machine, versions
from downstream.analysis import Contestants, analyse
from downstream.cells import NO_FORM, Cell, run_cells
from downstream.data import load_ctr_data
from downstream.fitting import TrainingSettings
from downstream.forms import FORMS
from downstream.intervals import BootstrapSettings
from downstream.models import MODELS, takes_form
from downstream.report import render, report_context
from downstream.sources import Source, make_tables


@dataclass(frozen=True)
class Settings:
    """A comparison.

    Attributes
    ----------
    out : folder of the report
    dataset : dataset folder
    sources : name -> where the embeddings come from; nothing for IDs only (see downstream.sources)
    title : of the report
    data : shards that tables are exported from, where a source names none
    baseline : the source that every other is compared with
    main : the source that the verdict is about
    forms : how embeddings enter the models
    models : CTR models
    seeds : of the CTR trainings, the same for every source
    training : settings of all CTR trainings; model.name and image.form are those of the cell
    bootstrap : settings of the intervals
    cache : folder of the cells; by default runs/compare/<name of out>
    pictures : whether the report may show thumbnails of items
    """

    out: str = ""
    dataset: str = ""
    sources: dict[str, Source | None] = field(default_factory=dict)
    title: str = "Which item embedding helps the CTR model?"
    data: str | None = None
    baseline: str = "ids"
    main: str = "courier"
    forms: list[str] = field(default_factory=lambda: ["vector"])
    models: list[str] = field(default_factory=lambda: ["dicm"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    training: TrainingSettings = field(default_factory=TrainingSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    cache: str | None = None
    pictures: bool = True

    def __post_init__(self) -> None:
        if not self.out or not self.dataset:
            raise UserError("'dataset' in the configuration and --out are needed")
        for role in ("baseline", "main"):
            if getattr(self, role) not in self.sources:
                raise UserError(f"{role} is {getattr(self, role)!r}, which is none of the sources {list(self.sources)}")
        if self.baseline == self.main:
            raise UserError(f"baseline and main are both {self.main!r}")
        for name, known in (("forms", FORMS), ("models", MODELS)):
            if not getattr(self, name) or not set(getattr(self, name)) <= set(known):
                raise UserError(f"{name} are {getattr(self, name)}; one or more of {sorted(known)} are expected")
        if lacking := [model for model in self.models if not _forms(self, model)]:
            raise UserError(f"the models {lacking} take none of the forms {self.forms}; add {MODELS[lacking[0]].forms}")
        if not self.seeds:
            raise UserError("seeds are empty; one or more integers are expected")


def _forms(settings: Settings, model: str) -> list[str]:
    """The forms of the comparison that the model can be given."""
    return [form for form in settings.forms if takes_form(model, form)]


def plan(settings: Settings, tables: dict[str, list[Path]]) -> list[Cell]:
    """Every cell of a comparison, one seed after the other; IDs only has no form."""
    cells = []
    for place, seed in enumerate(settings.seeds):
        for model in settings.models:
            for source, own in tables.items():
                for form in _forms(settings, model) if own else [NO_FORM]:
                    cells.append(Cell(source, form, model, seed, own[place % len(own)] if own else None))
    return cells


def compare(settings: Settings, command: str) -> str:
    """Run what is missing of a comparison and write its report; returns the verdict."""
    data = load_ctr_data(settings.dataset, settings.training.data)
    tables = {name: make_tables(source or Source(), settings.data) for name, source in settings.sources.items()}
    out = Path(settings.out)
    cache = Path(settings.cache or Path("runs") / "compare" / out.name)
    who = Contestants(settings.baseline, settings.main, settings.forms)
    with progress_bar() as progress:
        rows = run_cells(plan(settings, tables), cache, data, settings.training, progress)
        figures = analyse(rows, data, who, settings.bootstrap, progress)
    figures["bootstrap"] = asdict(settings.bootstrap)
    figures["made_by"] = {"command": command, "commit": commit(), "versions": versions(), "machine": machine()}
    pictured = tables if settings.pictures else {}
    context = report_context(figures, rows, data, who, settings.title, asdict(settings.training), pictured)
    for name in ("report.html", "report.md"):
        with whole_file(out / name) as scratch:
            scratch.write_text(render(f"{name}.j2", context), encoding="utf-8")
    write_json(out / "figures.json", figures)
    return " ".join(context["verdict"])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    said = compare(settings, f"python -m downstream.compare {shlex.join(sys.argv[1:])}")
    console = Console()
    console.print(said)
    console.print(f"{settings.out}/report.html, report.md, figures.json")


if __name__ == "__main__":
    run_command(main)
