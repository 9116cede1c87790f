"""What every command shares: typed settings from YAML and flags, progress, and errors a person can act on."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from argparse import SUPPRESS, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_tools.common.errors import UserError as UserError
from data_tools.common.plugins import plugin_settings, summary

Settings = TypeVar("Settings")


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help below a description that keeps its own lines."""


class _Parser(ArgumentParser):
    """jsonargparse's parser: short usage, plug-ins' options apart, and complaints that name the nearest known key.

    Attributes
    ----------
    plugins : dict of str to tuple
        Dotted name of each plug-in's section -> the setting that chooses it and the plug-in's class.
    """

    plugins: dict[str, tuple[str, Any]]

    def error(self, message: str, ex: Exception | None = None) -> None:
        known = [
            a.dest for a in self._actions if a.dest not in ("help", "print_config") and not a.dest.endswith(".help")
        ]
        unknown = re.findall(r"--([\w.-]+)", message) if "unrecognized" in message.lower() else []
        unknown += re.findall(r"(?:Option|Key|key) ['\"]([\w.-]+)['\"] is not (?:accepted|expected)", message)
        grouped = re.findall(r"Group '([\w.-]+)' does not accept option '([\w.-]+)'", message)
        for name in unknown + [".".join(parts) for parts in grouped]:
            message += f"\n  unknown key '{name}': the nearest known one is '{_nearest(name, known)}'"
        print(f"error: {message.strip()}\n  all keys: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def section_help(self, section: str | None = None) -> str:
        """Help of a section (its dotted name), or of all but the plug-ins' own, which are listed with a line each."""
        if section and not any(one.dest.startswith(f"{section}.") for one in self._actions):
            self.error(f"unrecognized arguments: --{section}.help")
        apart = [name for name in self.plugins if name != section]
        texts = [one.help for one in self._actions]
        description, self.usage = self.description, "%(prog)s [--config FILE] [--section.key VALUE ...]"
        try:
            if section:
                self.description = self.usage = SUPPRESS
            for one in self._actions:
                if not _shown(one, section, apart):
                    one.help = SUPPRESS
            shown = self.format_help().removeprefix(f"usage: {SUPPRESS}").lstrip()
        finally:
            self.description = description
            for one, text in zip(self._actions, texts, strict=True):
                one.help = text
        return shown if section else f"{shown}{self._plugins_help()}"

    def print_help(self, file: Any = None) -> None:
        print(self.section_help(), file=file or sys.stdout)

    def _plugins_help(self) -> str:
        lines: list[str] = []
        for choice in dict.fromkeys(choice for choice, _ in self.plugins.values()):
            lines += ["", f"options of each {choice} (--SECTION.help shows them):"]
            own = {name: plugin for name, (key, plugin) in self.plugins.items() if key == choice}
            width = max(map(len, own))
            lines += [f"  {name:{width}}  {summary(plugin)}" for name, plugin in own.items()]
        return "\n".join(lines) + "\n" if lines else ""


def _shown(action: Any, section: str | None, apart: Sequence[str]) -> bool:
    """Whether an option stands in the help of a section, or, without one, in that of the whole command."""
    if not isinstance(action.dest, str) or (action.metavar == "CONFIG" and action.dest != "config"):
        return False
    if section is not None:
        return action.dest.startswith(f"{section}.")
    return not any(action.dest.startswith(f"{name}.") for name in apart)


def _plugin_sections(settings: Any, prefix: str = "") -> dict[str, tuple[str, Any]]:
    """See ``_Parser.plugins``, of a settings dataclass and its sections."""
    found = {
        f"{prefix}{name}": (f"{prefix}{choice.key}", plugin)
        for name, (choice, plugin) in plugin_settings(settings).items()
    }
    hints = get_type_hints(settings)
    for one in fields(settings):
        if is_dataclass(hints[one.name]) and f"{prefix}{one.name}" not in found:
            found |= _plugin_sections(hints[one.name], f"{prefix}{one.name}.")
    return found


def _with_underscores(argument: str) -> str:
    """An option's name as the settings spell it: ``--item-columns=a-b`` becomes ``--item_columns=a-b``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _nearest(name: str, known: Sequence[str]) -> str:
    """The known key most like ``name``; where its first part names no section, the section or key most like that."""
    first, sections = name.split(".")[0], {key.split(".")[0] for key in known}
    if first not in sections:
        name, known = first, sorted(sections)
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def parse_settings(settings: type[Settings], description: str | None, argv: Sequence[str] | None = None) -> Settings:
    """Build a settings dataclass from ``--config FILE`` and ``--section.key value`` overrides (flags win).

    Dashes in the name of an option stand for underscores: ``--item-columns`` sets ``item_columns``. A yes-or-no option
    without a value means yes: ``--resume`` is ``--resume true``.

    Parameters
    ----------
    settings : a dataclass whose fields may be dataclasses (sections); each documents its fields.
    description : shown on top of ``--help``.
    argv : the arguments, by default those of the process.

    Raises
    ------
    SystemExit
        With status 2 after a message, for an unknown key (the nearest is named) or a value of the wrong type.
    """
    arguments = [_with_underscores(one) for one in (sys.argv[1:] if argv is None else argv)]
    parser = _Parser(description=description, allow_abbrev=False, formatter_class=_Help)
    parser.plugins = _plugin_sections(settings)
    parser.add_argument("--config", action="config", help="YAML file of settings; flags override it.")
    parser.add_class_arguments(settings)
    for section in (one[2:-5] for one in arguments if one.startswith("--") and one.endswith(".help")):
        print(parser.section_help(section))
        raise SystemExit(0)
    switches = {f"--{action.dest}" for action in parser._actions if getattr(action, "_typehint", None) is bool}
    parsed = parser.instantiate(parser.parse_args(_config_first(_spelt_out(arguments, switches)))).as_dict()
    parsed.pop("config")
    return settings(**parsed)


def settings_from(settings: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Build a settings dataclass from nested values, such as those a run recorded; what is missing is at its default.

    Parameters
    ----------
    settings : dataclass
    values : mapping
        Settings and sections by name.
    where : str
        Where the values are from, for messages.

    Raises
    ------
    UserError
        For an unknown key or a value of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**parser.instantiate(parser.parse_object(dict(values))).as_dict())
    except ArgumentError as error:
        raise UserError(f"{where}: {error}") from None


def _spelt_out(arguments: Sequence[str], switches: set[str]) -> list[str]:
    """The arguments, with "true" behind each switch that stands without a value."""
    spelt = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        spelt += [argument, "true"] if argument in switches and following.startswith("--") else [argument]
    return spelt


def _config_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the configuration files at the front, since of two settings of a key the later one wins."""
    files, rest, left = [], [], iter(arguments)
    for argument in left:
        if argument == "--config":
            files += [argument, *itertools.islice(left, 1)]
        else:
            (files if argument.startswith("--config=") else rest).append(argument)
    return files + rest


def progress_bar(shown: bool = True, console: Console | None = None) -> Progress:
    """Steps done, time gone and time to go; several processes show only the first one's."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, disable=not shown)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``; a :class:`UserError` or a fault of the disk ends it with one message and status 1."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
