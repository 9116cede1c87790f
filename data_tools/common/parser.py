"""The parser of every command: jsonargparse's, with compact help and complaints in plain words."""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import PositiveFloat

from data_tools.common.checks import allowed, expected
from data_tools.common.plugins import Choice, plugin_choices, summary

WIDTH = 100  # of help where there is no terminal
COLUMN = 34  # where the explanations begin
METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help, compact: short placeholders, ranges and defaults at the end of each explanation."""

    def __init__(self, prog: str) -> None:
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        super().__init__(prog, max_help_position=COLUMN, width=max(60, width - 2))

    def _get_help_string(self, action: Action) -> str:
        if (hint := getattr(action, "_typehint", None)) is None or action.default is SUPPRESS:
            return action.help or ""
        facts = [allowed(hint), "required" if action.required else f"default: {_shown_default(action.default)}"]
        return f"{action.help or ''} ({', '.join(filter(None, facts))})".strip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return _metavar(getattr(action, "_typehint", None))


def _shown_default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else "empty"


def _metavar(hint: Any) -> str:
    """The placeholder of the value in ``--option VALUE``."""
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if inner := [kind for kind in get_args(hint) if kind is not type(None)]:
        return _metavar(inner[0]) if len(inner) == 1 and get_origin(hint) not in (list, tuple) else "VALUE"
    return METAVARS.get(getattr(hint, "_type", hint), "VALUE")


def _program() -> str | None:
    """How this process was started, as argparse tells it itself from Python 3.14 on; None takes its default."""
    if started := sys.modules["__main__"].__spec__:
        return f"python -m {started.name.removesuffix('.__main__')}"
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else None


class Parser(ArgumentParser):
    """jsonargparse's parser, made for a settings dataclass by :meth:`of`."""

    choices: dict[str, Choice] = {}  # noqa: RUF012  jsonargparse makes parsers of this class for nested values, too

    @classmethod
    def of(cls, settings: type, description: str | None) -> Parser:
        """A parser of what all commands take and the fields of a dataclass, which may be dataclasses (sections).

        Parameters
        ----------
        settings : type
            The dataclass.
        description : str or None
            Shown on top of the help.
        """
        parser = cls(prog=_program(), description=description, allow_abbrev=False, formatter_class=HelpFormatter)
        parser.choices = dict(_choices(settings))
        parser.add_argument("--config", action="config", metavar="FILE", help="YAML file of settings; flags override.")
        parser.add_argument("--quiet", type=bool, default=False, help="Print nothing but errors.")
        parser.add_argument(
            "--json_log", type=str | None, metavar="FILE", help="Add what happens to this file, a JSON object a line."
        )
        parser.add_argument(
            "--url_cache", type=str | None, metavar="FOLDER", help="Where copies of files at URLs are kept."
        )
        parser.add_argument(
            "--url_cache_gb", type=PositiveFloat | None, metavar="X", help="Gigabytes of such copies kept at most (50)."
        )
        parser.add_class_arguments(settings)
        for group in parser._action_groups:
            group._group_actions.sort(key=lambda action: not action.required)
        printing = parser._option_string_actions["--print_config"]
        printing.help, printing.metavar = "Print the settings as YAML and exit.", ""
        return parser

    @property
    def switches(self) -> set[str]:
        """The options that are true or false."""
        return {f"--{action.dest}" for action in self._actions if getattr(action, "_typehint", None) is bool}

    @property
    def known(self) -> dict[str, Any]:
        """Dotted names of the settings that a file may hold -> their types; None for a section."""
        found = {action.dest: getattr(action, "_typehint", None) for action in self._actions}
        hidden = re.compile(r"help$|config$|print_|.*\.help$")
        return {name: hint for name, hint in found.items() if isinstance(name, str) and not hidden.match(name)}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"error: {self._in_plain_words(message.strip())}\n  all settings: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def _in_plain_words(self, message: str) -> str:
        actions = {action.dest: action for action in self._actions if isinstance(action.dest, str)}
        if found := re.match(r'Parser key "config":.*does not exist: (.*)', message, re.S):
            return f"the configuration file {found[1]} does not exist"
        if found := re.match(r'Parser key "config":.*Path is not a file: (.*)', message, re.S):
            return f"--config must be followed by a YAML file; {found[1]} is not one"
        if found := re.match(r"Unexpected config:(.*)", message, re.S):
            return f"the configuration {found[1].strip()!r} sets nothing; must be a YAML file such as 'out: PATH'"
        if found := re.match(r'Parser key "([\w.-]+)":\s*(.*)', message, re.S):
            value, hint = _value_in(found[2]), getattr(actions.get(found[1]), "_typehint", None)
            if hint is not None:
                return f"--{found[1]} is {value or 'of another kind'}; {expected(hint, _number(value or ''))}"
            if inner := next((name for name in actions if name.startswith(f"{found[1]}.")), None):
                return f"--{found[1]} is a section; set what it holds, as in --{inner} VALUE"
        if found := re.match(r"argument (--[\w.-]+): expected one argument", message):
            return f"{found[1]} needs a value"
        if found := re.match(r"the following arguments are required: (.*)", message):
            *others, last = [f"--{name}" for name in found[1].split(", ")]
            return f"{', '.join(others)} and {last} are required" if others else f"{last} is required"
        if message.startswith("Problems parsing config:"):
            return message.replace("Problems parsing config:", "the configuration file is not valid YAML:")
        unknown = [
            f"unknown setting {name}; the nearest is {nearest(name, list(self.known))}" for name in _unknown_in(message)
        ]
        if found := re.match(r"unrecognized arguments: ([^-].*)", message, re.I):
            return f"unexpected argument {found[1].split()[0]!r}; settings are given as --name VALUE"
        return "\n  ".join(unknown) or message

    def section_help(self, section: str | None = None) -> str:
        """Help of a section (its dotted name), or of all but the plug-ins' own, which are listed with a line each."""
        if section and not any(one.dest.startswith(f"{section}.") for one in self._actions):
            self.error(f"unrecognized arguments: --{section}.help")
        apart = [name for name in self._plugin_sections() if name != section]
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

    def _plugin_sections(self) -> list[str]:
        """Dotted names of the sections that hold plug-ins' options."""
        return [
            _section(where, name)
            for where, choice in self.choices.items()
            for name, plugin in choice.registry.items()
            if hasattr(plugin, "Settings")
        ]

    def _plugins_help(self) -> str:
        """The plug-ins by the setting that chooses them, a line each."""
        lines: list[str] = []
        for where, choice in self.choices.items():
            lines += ["", f"--{where}, one of:"]
            width = max(map(len, choice.registry))
            for name, plugin in choice.registry.items():
                own = f" (options: --{_section(where, name)}.help)" if hasattr(plugin, "Settings") else ""
                lines.append(f"  {name:{width}}  {summary(plugin)}{own}")
        return "\n".join(lines) + "\n" if lines else ""


def _choices(settings: Any, prefix: str = "") -> Iterator[tuple[str, Choice]]:
    """Dotted name of each setting that chooses plug-ins -> its choice, of a settings dataclass and its sections."""
    yield from ((f"{prefix}{choice.key}", choice) for choice in plugin_choices(settings))
    plugins = {name for choice in plugin_choices(settings) for name in choice.registry}
    hints = get_type_hints(settings)
    for one in fields(settings):
        if is_dataclass(hints[one.name]) and one.name not in plugins:
            yield from _choices(hints[one.name], f"{prefix}{one.name}.")


def _section(where: str, name: str) -> str:
    """Dotted name of a plug-in's options, next to the setting ``where`` that chooses it."""
    return ".".join([*where.split(".")[:-1], name])


def _shown(action: Any, section: str | None, apart: Sequence[str]) -> bool:
    """Whether an option is in the help of a section, or, without one, in that of the whole command."""
    if not isinstance(action.dest, str) or (action.metavar == "CONFIG" and action.dest != "config"):
        return False
    if section is not None:
        return action.dest.startswith(f"{section}.")
    return not any(action.dest.startswith(f"{name}.") for name in apart)


def _value_in(complaint: str) -> str | None:
    """The value that one of jsonargparse's complaints is about."""
    for pattern in (
        r"Given value: (.*)",
        r"Got value: (.*)",
        r"Not of type \w+: invalid literal for .*: '(.*)'",
        r"Not of type \w+: could not convert string to float: '(.*)'",
        r"Not of type \w+: (.*?) (?:does not conform|not an? )",
    ):
        if found := re.search(pattern, complaint):
            return found[1]
    return None


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _unknown_in(message: str) -> list[str]:
    """The names of settings that one of the parser's complaints does not know."""
    names = re.findall(r"--([\w.-]+)", message) if "unrecognized" in message.lower() else []
    names += re.findall(r"(?:Option|Key|key) ['\"]([\w.-]+)['\"] is not (?:accepted|expected)", message)
    grouped = re.findall(r"Group '([\w.-]+)' does not accept option '([\w.-]+)'", message)
    return names + [".".join(two) for two in grouped]


def nearest(name: str, known: Sequence[str]) -> str:
    """The known key most like ``name``; where its first part names no section, the section or key most like that."""
    first, sections = name.split(".")[0], {key.split(".")[0] for key in known}
    if first not in sections:
        name, known = first, sorted(sections)
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
