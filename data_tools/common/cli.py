"""What every command shares: typed settings from YAML and flags, progress, and errors a person can act on."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_tools.common.errors import UserError as UserError
from data_tools.common.parser import Parser

Settings = TypeVar("Settings")


def _with_underscores(argument: str) -> str:
    """An option's name as the settings spell it: ``--item-columns=a-b`` becomes ``--item_columns=a-b``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


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
    parser = Parser(settings, description)
    for section in (one[2:-5] for one in arguments if one.startswith("--") and one.endswith(".help")):
        print(parser.section_help(section))
        raise SystemExit(0)
    parsed = parser.instantiate(parser.parse_args(_config_first(_spelt_out(arguments, parser.switches)))).as_dict()
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
