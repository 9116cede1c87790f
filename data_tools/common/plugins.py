"""Plug-ins: classes by name, each with its own settings, from this project and from other packages.

A registry holds the plug-ins of one kind. A plug-in is a class; the first line of its docstring is what ``--help``
says of it, and a dataclass ``Settings`` inside it, where there is one, is its options:

    class SimTier(Form):
        \"\"\"Histogram of cosines.\"\"\"

        @dataclass(frozen=True)
        class Settings(Checked):
            bins: PositiveInt = 20

    FORMS = Registry("form", "visual_interest.forms", {"simtier": SimTier})

:func:`with_plugins` adds the options to the section of settings in which the plug-in is chosen by name, so that YAML
(``image: {form: simtier, simtier: {bins: 10}}``), flags (``--image.simtier.bins 10``) and ``--image.simtier.help``
follow from the registry line. Another package adds plug-ins through entry points, without a change here:

    [project.entry-points."visual_interest.forms"]
    my_form = "my_package:MyForm"
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from data_tools.common.errors import UserError

Plugin = TypeVar("Plugin")
Section = TypeVar("Section")


class Registry(Mapping[str, Plugin], Generic[Plugin]):
    """Plug-ins of one kind by name, with those of installed packages.

    Parameters
    ----------
    kind : str
        What one of them is called in messages, such as "objective".
    group : str
        Entry-point group in which other packages name theirs.
    built_in : dict of str to class
        Those of this project.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, Plugin]) -> None:
        self.kind, self.group, self.built_in = kind, group, dict(built_in)

    @cached_property
    def _all(self) -> dict[str, Plugin]:
        """Read late: a package with several plug-ins imports several registries while it is imported itself."""
        found = dict(self.built_in)
        for entry in entry_points(group=self.group):
            if entry.name in found:
                raise UserError(f"two plug-ins are called {self.kind} {entry.name!r}; rename the one in {entry.value}")
            try:
                found[entry.name] = entry.load()
            except Exception as error:  # anything may fail while another package is imported
                raise UserError(
                    f"{self.kind} {entry.name!r} ({entry.value}, group {self.group}) cannot be loaded: "
                    f"{type(error).__name__}: {error}; fix or uninstall that package"
                ) from error
        return found

    def __getitem__(self, name: str) -> Plugin:
        if name not in self._all:
            raise UserError(f"unknown {self.kind} {name!r}; choose one of {', '.join(sorted(self._all))}")
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def summary(plugin: Any) -> str:
    """The first line of a plug-in's docstring, for ``--help``."""
    return (plugin.__doc__ or "").strip().split("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Choice:
    """A setting that names plug-ins.

    Attributes
    ----------
    key : str
        Field of the section that holds the name.
    registry : Registry
        What it may name.
    """

    key: str
    registry: Registry[Any]


def _again(one: Field) -> Any:
    """A field's default, for another dataclass."""
    if one.default_factory is not MISSING:
        return field(default_factory=one.default_factory, kw_only=one.kw_only)
    return field(default=one.default, kw_only=one.kw_only)


def with_plugins(section: type[Section], module: str, **registries: Registry[Any]) -> type[Section]:
    """A subclass of a settings dataclass with one more field, the plug-in's ``Settings``, for each plug-in.

    Parameters
    ----------
    section : dataclass
        The settings that all plug-ins share; it keeps its name.
    module : str
        ``__name__`` of the module that binds the result to that name, so that pickle finds it.
    **registries : Registry
        By the field of ``section`` that names the chosen plug-in.

    Raises
    ------
    UserError
        If a plug-in is named as a field of the section, or as another plug-in of it.
    """
    hints = get_type_hints(section)
    own = [(one.name, hints[one.name], _again(one)) for one in fields(section)]
    names = {name for name, _, _ in own}
    options = []
    for registry in registries.values():
        for name, plugin in registry.items():
            if not hasattr(plugin, "Settings"):
                continue
            if name in names:
                raise UserError(
                    f"{registry.kind} {name!r} has the name of another setting of {section.__name__}: rename it"
                )
            names.add(name)
            options.append((name, plugin.Settings, field(default_factory=plugin.Settings)))
    choices = tuple(Choice(key, registry) for key, registry in registries.items())
    body = {"__doc__": section.__doc__, "__module__": module, "choices": choices}
    frozen = section.__dataclass_params__.frozen
    return make_dataclass(section.__name__, [*own, *options], bases=(section,), namespace=body, frozen=frozen)


def plugin_choices(section: Any) -> tuple[Choice, ...]:
    """The settings of a section made by :func:`with_plugins` that name plug-ins; empty for other settings."""
    return getattr(section, "choices", ())


def plugin_settings(section: Any) -> dict[str, tuple[Choice, Any]]:
    """Name of each plug-in with options -> the choice it belongs to and its class; empty for other settings."""
    return {
        name: (choice, plugin)
        for choice in plugin_choices(section)
        for name, plugin in choice.registry.items()
        if hasattr(plugin, "Settings")
    }


def options_of(section: Any, name: str) -> Any:
    """The options of the plug-in ``name`` in a section made by :func:`with_plugins`; None for one without."""
    return getattr(section, name, None)


def in_use(section: Any, also: Collection[str] = ()) -> dict[str, Any]:
    """A section's settings as nested dicts, without the options of plug-ins neither chosen nor named in ``also``."""
    plugins = plugin_settings(section).items()
    left_out = {name for name, (choice, _) in plugins if name not in {getattr(section, choice.key), *also}}
    return {name: value for name, value in asdict(section).items() if name not in left_out}


def changed(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults, by dotted name."""
    found = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if value == default:
            continue
        if is_dataclass(value):
            found |= {f"{one.name}.{name}": inner for name, inner in changed(value).items()}
        else:
            found[one.name] = value
    return found


def refuse_unused(section: Any, where: str, used: Collection[str]) -> None:
    """Raise a UserError if options were set of a plug-in that is not chosen: they would do nothing.

    Parameters
    ----------
    section : any
        Made by :func:`with_plugins`.
    where : str
        Its dotted name, such as "objective"; empty for the settings of a whole command.
    used : names
        Plug-ins whose options have an effect: those chosen, and those that they are made of.
    """
    prefix = f"{where}." if where else ""
    for name, (choice, _) in plugin_settings(section).items():
        options = options_of(section, name)
        if name in used or not (set_ := changed(options)):
            continue
        flag, value = next(iter(set_.items()))
        raise UserError(
            f"--{prefix}{name}.{flag} is {value!r}, but {prefix}{choice.key} is {getattr(section, choice.key)!r}: it "
            f"would have no effect. Remove it, or choose --{prefix}{choice.key} {name}"
        )
