"""What a comparison is asked for, and the cells that follow: sources, forms, models and seeds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt

from data_tools.common.checks import Checked, Seed, Threads
from data_tools.common.errors import UserError
from downstream.comparison.cells import Cell
from downstream.comparison.sources import Source
from downstream.comparison.spec import NO_FORM, Primary
from downstream.forms.registry import FORMS
from downstream.models.registry import MODELS
from downstream.statistics.bootstrap import BootstrapSettings
from downstream.training.settings import TrainingDefaults, TrainingSettings

Changes = dict[str, Any]


def _variants(
    what: str, given: list[str] | dict[str, Changes | None], key: str, known: Collection[str]
) -> dict[str, Changes]:
    """Changes of the settings by name, ``key`` being the name itself where that is one of ``known``."""
    found = {}
    for name, changes in ({name: {} for name in given} if isinstance(given, list) else given).items():
        if name not in known and key not in (changes or {}):
            raise UserError(
                f"{what}: unknown name {name!r}; choose one of {', '.join(sorted(known))}, or give it '{key}', such as "
                f"{{{key}: ...}}"
            )
        found[name] = {key: name, **(changes or {})}
    return found


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """A comparison.

    Attributes
    ----------
    out : str
        Folder of the report.
    dataset : str
        Dataset folder.
    sources : dict of str to Source
        Name -> where the embeddings come from; nothing for IDs only (see downstream/comparison/sources.py).
    title : str
        Title of the report.
    data : str or null
        Shards that tables are exported from, where a source names none.
    baseline : str
        The source that every other is compared with.
    main : str
        The source that the verdict is about.
    ceiling : str or null
        A source that knows what can be known, such as the planted attributes of a simulated shop: the report says which
        share of its gain the others bring; null for none.
    forms : list or dict
        How embeddings enter the models: names of forms, or name -> settings of training.image that it changes, such as
        {vector: {}, ad image alone: {form: vector, behaviour_images: false}}.
    models : list or dict
        CTR models: their names, or name -> settings of training.model that it changes.
    ctr_seeds : list of int
        Seeds of the CTR trainings, the same for every source.
    encoder_seeds : list of int or null
        Which pre-training seeds to use: places, from 0, in each source's list of runs or tables; null for all of them.
    design : "paired" or "crossed"
        "paired" runs one cell (a CTR training) for each CTR seed, the k-th with the k-th encoder, starting again from
        the first where a source has fewer; "crossed" runs every encoder with every CTR seed. The report says which
        cells were run.
    primary : Primary or null
        The one difference that the comparison is made for, declared before the run: the main source against another
        (against) on all, warm or cold items (slice), by one of the models (model); null for none.
    test_days : (float, float) or null
        Days of the test split that are scored, from and until, counted from its start, such as [0, 7]; null for all. A
        headline can be confirmed on days that no earlier comparison saw.
    training : TrainingDefaults
        What all CTR trainings share, before what forms and models change; each takes the options that it uses.
    bootstrap : BootstrapSettings
        Settings of the intervals.
    cache : str or null
        Folder of the trained cells; null takes runs/compare/NAME, where NAME is that of the folder out.
    workers : int
        Processes that train CTR models side by side, each with training.optim.threads threads.
    pictures : bool
        Whether the report may show thumbnails of items.
    names : dict of str to str
        Display names of sources, forms and models in the report, besides the built-in ones (IDs only, COURIER, ...).
    """

    out: str
    dataset: str
    sources: dict[str, Source | None] = field(default_factory=dict)
    title: str = "Which item embedding helps the CTR model?"
    data: str | None = None
    baseline: str = "ids"
    main: str = "courier"
    ceiling: str | None = None
    forms: list[str] | dict[str, dict[str, Any]] = field(default_factory=lambda: ["vector"])
    models: list[str] | dict[str, dict[str, Any]] = field(default_factory=lambda: ["dicm"])
    ctr_seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    encoder_seeds: list[NonNegativeInt] | None = None
    design: Literal["paired", "crossed"] = "paired"
    primary: Primary | None = None
    test_days: tuple[float, float] | None = None
    training: TrainingDefaults = field(default_factory=TrainingDefaults)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    cache: str | None = None
    workers: Threads = 1
    pictures: bool = True
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_sources()
        self._check_lists()
        if self.test_days and not 0 <= self.test_days[0] < self.test_days[1]:
            raise UserError(f"test_days is {list(self.test_days)}; give two rising numbers from 0, such as [0, 7]")
        if self.primary and self.primary.against not in set(self.sources) - {self.main}:
            raise UserError(
                f"primary.against is {self.primary.against!r}; choose one of {sorted(set(self.sources) - {self.main})}"
            )
        if self.primary and self.primary.model not in (None, *self.models):
            raise UserError(f"primary.model is {self.primary.model!r}; choose one of {list(self.models)}")
        trainings = [one for model in self.trainings().values() for name, one in model.items() if name != NO_FORM]
        self.training.refuse_unused(trainings, decided={"model.name": "'models'", "image.form": "'forms'"})

    def _check_sources(self) -> None:
        if not self.sources:
            raise UserError("sources is empty; name at least two, such as {ids: {}, mine: {table: PATH}}")
        if "" in self.sources:
            raise UserError("sources has one without a name: ''; name it")
        given = [(name, source or Source()) for name, source in self.sources.items()]
        for number, (name, source) in enumerate(given):
            if twin := next((other for other, own in given[:number] if own == source), None):
                what = ", ".join(f"{key}: {value}" for key, value in vars(source).items() if value)
                raise UserError(f"the sources {twin!r} and {name!r} are the same ({what}); remove one")
        roles = {role: getattr(self, role) for role in ("baseline", "main", "ceiling")}
        roles = {role: source for role, source in roles.items() if source is not None}
        for role, source in roles.items():
            if source not in self.sources:
                raise UserError(f"{role} is {source!r}; choose one of the sources {', '.join(map(str, self.sources))}")
        if len(set(roles.values())) < len(roles):
            raise UserError(f"one source cannot have two roles, as here: {roles}")

    def _check_lists(self) -> None:
        for name in ("forms", "models", "ctr_seeds"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; give at least one")
            if isinstance(given := getattr(self, name), list) and any(one in given[:n] for n, one in enumerate(given)):
                raise UserError(f"{name} names one twice: {given}")
        if len(set(self.encoder_seeds or [])) < len(self.encoder_seeds or []):
            raise UserError(f"encoder_seeds names one twice: {self.encoder_seeds}")

    def trainings(self) -> dict[str, dict[str, TrainingSettings]]:
        """Name of a model -> name of each form that the model can be given, and "none" -> settings of the training.

        Raises
        ------
        UserError
            If a form or model has an unknown name, or sets what has no effect on it.
        """
        forms, found = _variants("forms", self.forms, "form", FORMS), {}
        for model, changes in _variants("models", self.models, "name", MODELS).items():
            takes = MODELS[changes["name"]].forms
            own = {name: form for name, form in forms.items() if takes is None or form["form"] in takes}
            if not own:
                raise UserError(f"model {model!r} takes none of the forms given; add one of {', '.join(takes)}")
            found[model] = {NO_FORM: self._training(model, changes, NO_FORM, {})}
            found[model] |= {name: self._training(model, changes, name, form) for name, form in own.items()}
        return found

    def _training(self, model: str, of_model: Changes, form: str, of_form: Changes) -> TrainingSettings:
        try:
            return self.training.chosen(of_model, of_form)
        except UserError as error:
            raise UserError(f"model {model!r} with form {form!r}: {error}") from None


def _pairs(settings: Settings, source: str, encoders: list[int]) -> list[tuple[int, int]]:
    """(CTR seed, encoder) of the cells of one source; encoder 0 of a source that has none."""
    if settings.design == "crossed":
        return list(product(settings.ctr_seeds, encoders or [0]))
    return [(seed, encoders[place % len(encoders)] if encoders else 0) for place, seed in enumerate(settings.ctr_seeds)]


def plan(settings: Settings, tables: dict[str, dict[int, Path]]) -> list[Cell]:
    """Every cell of a comparison, one CTR seed after the other; IDs only has no form.

    Parameters
    ----------
    tables : dict
        Source -> pre-training seed -> table.
    """
    cells, models = [], settings.trainings().items()
    pairs = {source: _pairs(settings, source, list(own)) for source, own in tables.items()}
    for seed, (name, trainings), (source, own) in product(settings.ctr_seeds, models, tables.items()):
        forms = trainings.keys() - {NO_FORM} if own else {NO_FORM}
        for encoder in (encoder for paired, encoder in pairs[source] if paired == seed):
            cells += [
                Cell(source, form, name, seed, own.get(encoder), training, encoder)
                for form, training in trainings.items()
                if form in forms
            ]
    return cells
