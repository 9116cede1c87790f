"""What every command shares: typed settings from YAML and flags, progress, and errors a person can act on."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Settings = TypeVar("Settings")


class UserError(Exception):
    """A mistake of the user's or a fault of the input: shown as one message, without a traceback.

    The message says what was found, what was expected, where, and what to do.
    """


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help below a description that keeps its own lines."""


class _Parser(ArgumentParser):
    """jsonargparse's parser, whose complaint about an unknown key names the nearest known one."""

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
    parser = _Parser(description=description, allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--config", action="config", help="YAML file of settings; flags override it.")
    parser.add_class_arguments(settings)
    arguments = [_with_underscores(one) for one in (sys.argv[1:] if argv is None else argv)]
    switches = {f"--{action.dest}" for action in parser._actions if getattr(action, "_typehint", None) is bool}
    parsed = parser.instantiate(parser.parse_args(_config_first(_spelt_out(arguments, switches)))).as_dict()
    parsed.pop("config")
    return settings(**parsed)


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
