"""Settings of a CTR training with the options of all plug-ins, and the checks that need to know the plug-ins.

Two classes: :class:`TrainingSettings` decide one training, and an option that has no effect on it is an error.
:class:`TrainingDefaults` are what the trainings of a comparison share; each of them takes of these what its own model
and form use (:meth:`TrainingDefaults.chosen`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from data_tools.common.checks import Checked
from data_tools.common.cli import settings_from
from data_tools.common.errors import UserError
from data_tools.common.plugins import changed, plugin_settings, refuse_unused, with_plugins
from downstream.forms.aggregators import AGGREGATORS
from downstream.forms.base import TUNING
from downstream.forms.registry import FORMS
from downstream.models.base import CTRModel
from downstream.models.registry import MODELS
from downstream.models.towers import Towers
from downstream.settings import DataSettings, ImageSettings, ModelSettings, OptimSettings, ServerSettings

Section = TypeVar("Section")

ModelSettings = with_plugins(ModelSettings, __name__, name=MODELS)
ImageSettings = with_plugins(ImageSettings, __name__, form=FORMS, aggregator=AGGREGATORS)


def _used_by_model(model: ModelSettings) -> frozenset[str]:
    """Fields of the section ``model`` that have an effect with the model it names."""
    return MODELS[model.name].uses | {"name", model.name}


def _used_of_images(model: ModelSettings, image: ImageSettings) -> frozenset[str]:
    """Fields of the section ``image`` that have an effect with the model and the form that are named."""
    form, limit = FORMS[image.form], MODELS[model.name].uses_of_images
    used = form.uses | {"gate", image.form, *form.made_of}
    if limit is not None:
        used &= limit
    if "behaviour_images" in used and not image.behaviour_images:
        used -= {"aggregator"}
    return used | {"form"} | ({image.aggregator} if "aggregator" in used else set())


def _refuse_shared(section: Any, where: str, used: Collection[str], chosen: str) -> None:
    """Raise a UserError if a setting that plug-ins share was changed and has no effect on those chosen."""
    plugins = plugin_settings(section)
    for name, value in changed(section).items():
        if name.split(".")[0] not in {*used, *plugins}:
            raise UserError(f"--{where}.{name} is {value!r}, but {chosen} does not use it: remove it")


def _reset(section: Section, used: Collection[str]) -> Section:
    """The section with everything at its default that is not used."""
    defaults = type(section)()
    return replace(
        section, **{one.name: getattr(defaults, one.name) for one in fields(section) if one.name not in used}
    )


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in changes.items():
        inner = values.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class TrainingDefaults(Checked):
    """What the CTR trainings of a comparison share.

    Attributes
    ----------
    data : DataSettings
        What the models see of the dataset.
    model : ModelSettings
        The network.
    image : ImageSettings
        How images enter it.
    optim : OptimSettings
        The training.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)

    def chosen(
        self, model: Mapping[str, Any] | None = None, image: Mapping[str, Any] | None = None
    ) -> TrainingSettings:
        """Settings of one training: these with changes.

        Options of these that the chosen model and form do not use are back at their defaults; the changes must be used.

        Parameters
        ----------
        model : mapping
            What to change of ``model``, such as {"name": "din", "din": {"softmax": True}}.
        image : mapping
            What to change of ``image``, such as {"form": "simtier", "simtier": {"bins": 10}}.

        Raises
        ------
        UserError
            If a change has no effect, an unknown name or a wrong value, or the model cannot be given the form.
        """
        model, image = model or {}, image or {}
        base = replace(self.model, name=model.get("name", self.model.name))
        own_model = settings_from(ModelSettings, _merged(asdict(_reset(base, _used_by_model(base))), model), "model")
        choices = {name: image[name] for name in ("form", "aggregator", "behaviour_images") if name in image}
        base = replace(self.image, **choices)
        own_image = settings_from(
            ImageSettings, _merged(asdict(_reset(base, _used_of_images(own_model, base))), image), "image"
        )
        return TrainingSettings(self.data, own_model, own_image, self.optim)

    def refuse_unused(self, trainings: Iterable[TrainingSettings], decided: Mapping[str, str]) -> None:
        """Raise a UserError if an option was changed that has an effect on none of the trainings.

        Parameters
        ----------
        trainings : iterable of TrainingSettings
            Made by :meth:`chosen`.
        decided : mapping
            Settings of these that another setting of the command decides, such as {"model.name": "models"}.
        """
        used: set[str] = set()
        for one in trainings:
            used |= {f"model.{name}" for name in _used_by_model(one.model)}
            used |= {f"image.{name}" for name in _used_of_images(one.model, one.image)}
        for where in ("model", "image"):
            for name, value in changed(getattr(self, where)).items():
                first = f"{where}.{name.split('.')[0]}"
                if first in decided:
                    raise UserError(f"training.{first} is {value!r}, but {decided[first]} decides it: remove it")
                if first not in used:
                    raise UserError(f"training.{where}.{name} is {value!r}, but no training here uses it: remove it")


@dataclass(frozen=True)
class TrainingSettings(TrainingDefaults):
    """Everything that decides a trained model, besides dataset, table and seed.

    Attributes
    ----------
    data : DataSettings
        What the model sees of the dataset.
    model : ModelSettings
        The network.
    image : ImageSettings
        How images enter it.
    optim : OptimSettings
        The training.
    server : ServerSettings
        How several processes share the images' raw features.
    """

    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        model, image = MODELS[self.model.name], FORMS[self.image.form]
        AGGREGATORS[self.image.aggregator]  # an unknown name is a UserError
        if model.forms is not None and self.image.form not in model.forms:
            raise UserError(
                f"model {self.model.name!r} takes images in the form {' or '.join(map(repr, model.forms))} only, and "
                f"image.form is {self.image.form!r}"
            )
        self._check_tuning(image.uses)
        self._check_search(model)
        used = _used_by_model(self.model)
        refuse_unused(self.model, "model", used)
        _refuse_shared(self.model, "model", used, f"model {self.model.name!r}")
        used = _used_of_images(self.model, self.image)
        refuse_unused(self.image, "image", used)
        limited = model.uses_of_images is not None
        _refuse_shared(
            self.image, "image", used, f"model {self.model.name!r}" if limited else f"form {self.image.form!r}"
        )

    def _check_search(self, model: type[CTRModel]) -> None:
        if self.data.history_by != "similarity":
            return
        if issubclass(model, Towers):
            raise UserError(
                f"data.history_by is 'similarity', which depends on the shown item, but model {self.model.name!r} "
                "knows users apart from items; remove it, or choose another model"
            )
        if self.server.strategy != "local":
            raise UserError(
                "data.history_by is 'similarity', which compares the vectors of a table, but server.strategy is "
                f"{self.server.strategy!r}, which serves embeddings of a feature store; remove one"
            )

    def _check_tuning(self, uses: frozenset[str]) -> None:
        tune, server = self.image.tune, self.server.strategy
        if tune != "frozen" and not uses >= TUNING:
            tunable = sorted(name for name, form in FORMS.items() if form.uses >= TUNING)
            raise UserError(
                f"image.tune is {tune!r}, but no gradient reaches the table through the form {self.image.form!r}; "
                f"remove it, or choose one of the forms {', '.join(tunable)}"
            )
        if server != "local" and tune != "frozen":
            raise UserError(
                f"image.tune is {tune!r}, but server.strategy {server!r} serves frozen features only; remove one"
            )
        if self.server.shard_ids and self.optim.id_optimizer == "sparse_adam":
            raise UserError(
                "optim.id_optimizer is 'sparse_adam', but server.shard_ids splits the ID tables, which "
                "learn by adam only; remove one"
            )
        if server != "local" and self.image.form != "vector":
            raise UserError(
                f"image.form {self.image.form!r} needs raw features, but server.strategy {server!r} gives embeddings: "
                "choose image.form vector or server.strategy local"
            )
