"""What every command shares: typed settings from YAML and flags, progress, and an end with one clear message."""

from __future__ import annotations

import errno
import itertools
import os
import re
import select
import shlex
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_tools.common import cache, hints
from data_tools.common.config_file import holds_settings
from data_tools.common.errors import UserError as UserError
from data_tools.common.locks import NOT_OURS
from data_tools.common.output import configure, log_event
from data_tools.common.parser import Parser, nearest
from data_tools.common.places import check_place
from data_tools.common.stopping import stoppable

DISK_FULL, NO_SPACE = (errno.ENOSPC, errno.EDQUOT), "No space left on device"
SYSTEM_REMEDIES = {
    **dict.fromkeys(NOT_OURS, "choose another place, or ask its owner for the right to it"),
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a file is where a folder should be: choose another place",
    errno.EEXIST: "choose another place, or remove it first",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the name",
}
NO_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory|Unable to allocate|Cannot allocate memory")
# Where configs/ is: in a clone, and in an installation.
SHIPPED = (Path(__file__).parents[2], Path(sysconfig.get_path("data"), "share", "visual-interest"))
Settings = TypeVar("Settings")
OUTPUTS = {"out", "cache", "json_log", "url_cache"}  # settings that name places to write to


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
    settings : type
        A dataclass whose fields may be dataclasses (sections); each documents its fields.
    description : str or None
        Shown on top of ``--help``.
    argv : sequence of str or None
        The arguments, by default those of the process.

    Raises
    ------
    SystemExit
        With status 2 after a message, for an unknown key (the nearest is named) or a value of the wrong type.
    """
    arguments = [_with_underscores(one) for one in (sys.argv[1:] if argv is None else argv)]
    parser = Parser.of(settings, description)
    hints.has(parser.known)
    for section in (one[2:-5] for one in arguments if one.startswith("--") and one.endswith(".help")):
        print(parser.section_help(section))
        raise SystemExit(0)
    if bad := next((one for one in arguments if not one.isascii() and _lone_surrogates(one)), None):
        parser.error(f"{bad!a} is not UTF-8; rename what it names")
    files, flags = _config_apart(_spelt_out(arguments, parser.switches))
    try:
        files = [file for file in files if not Path(file).is_file() or holds_settings(file, parser.known)]
    except UserError as error:
        parser.error(str(error))
    # In front, since of two settings of a key the later one wins.
    arguments = [*(f"--config={file}" for file in files), *flags]
    parsed = _instantiated(parser, parser.parse_args(arguments))
    parsed = {name: _expanded(value) for name, value in parsed.items()}
    parsed.pop("config")
    for name in OUTPUTS & parsed.keys():
        if parsed[name] is not None:
            check_place(parsed[name], name)
    configure(parsed.pop("quiet"), parsed.pop("json_log"))
    cache.configure(parsed.pop("url_cache"), parsed.pop("url_cache_gb"))
    log_event("start", command=shlex.join(sys.argv), process=os.getpid())
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
    _refuse_unknown(settings, values, where)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**_instantiated(parser, parser.parse_object(dict(values))))
    except ArgumentError as error:
        raise UserError(f"{where}: {error}") from None


def _instantiated(parser: ArgumentParser, parsed: Namespace) -> dict[str, Any]:
    """The values of settings, their sections made; what a section says against its own values is a UserError."""
    try:
        return parser.instantiate(parsed).as_dict()
    except ValueError as error:
        # Of a section that may be null, jsonargparse lists what speaks against either.
        if not (said := re.search(r"^Errors:\n\s*- (.*)", str(error), re.MULTILINE)):
            raise
        raise UserError(said[1]) from None


def _refuse_unknown(settings: type[Any], values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise a UserError that names the nearest key, if a key of nested values is not a field."""
    hints = get_type_hints(settings)
    known = {one.name: hints[one.name] for one in fields(settings)}
    for name, value in values.items():
        if name not in known:
            near = nearest(name, list(known))
            raise UserError(f"{where}: unknown setting {prefix}{name}; the nearest is {prefix}{near}")
        if is_dataclass(known[name]) and isinstance(value, Mapping):
            _refuse_unknown(known[name], value, where, f"{prefix}{name}.")


def _spelt_out(arguments: Sequence[str], switches: set[str]) -> list[str]:
    """The arguments, with "true" after each switch that has no value."""
    spelt = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        spelt += [argument, "true"] if argument in switches and following.startswith("--") else [argument]
    return spelt


def _lone_surrogates(text: str) -> bool:
    """Whether a text has what Python makes of bytes that are not UTF-8."""
    return any("\ud800" <= one <= "\udfff" for one in text)


def _expanded(value: Any) -> Any:
    """A setting with the home folder for ~ and the value of a variable of the environment at the start of its texts.

    A shell does so only outside quotes and behind a blank, and nobody does in a file of settings.
    """
    if isinstance(value, str) and re.match(r"~(/|$)|\$\w+(/|$)|\$\{\w+\}(/|$)", value):
        return os.path.expanduser(os.path.expandvars(value))
    if isinstance(value, Path):
        return Path(_expanded(str(value)))
    if type(value) is dict:
        return {name: _expanded(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_expanded, value))
    if is_dataclass(value) and not isinstance(value, type):
        changed = {one.name: _expanded(getattr(value, one.name)) for one in fields(value)}
        return replace(value, **changed) if changed != vars(value) else value
    return value


def _config_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The configuration files, and the other arguments."""
    files, rest, left = [], [], iter(arguments)
    for argument in left:
        if argument == "--config":
            files += map(_found, itertools.islice(left, 1))
        elif argument.startswith("--config="):
            files.append(_found(argument.removeprefix("--config=")))
        else:
            rest.append(argument)
    return files, rest


def _found(config: str) -> str:
    """Where a configuration file is: as named, or else among those that come with this project."""
    config = _expanded(config)
    return next((str(folder / config) for folder in (Path(), *SHIPPED) if (folder / config).is_file()), config)


def progress_bar(shown: bool = True, console: Console | None = None) -> Progress:
    """Steps done, time gone and time to go; several processes show only the first one's."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, disable=not shown)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``, and end with one message where it cannot continue.

    Raises
    ------
    SystemExit
        With status 1 after a :class:`UserError` or a fault of the disk, 130 after SIGINT, 143 after SIGTERM, and 141
        where nobody reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or a log that is not UTF-8 must not end a job
            stream.reconfigure(errors="backslashreplace")
    started = time.monotonic()
    with stoppable() as received, hints.command():
        try:
            main()
            status, message = 0, ""
        except SystemExit as end:
            log_event("end", status=end.code or 0, seconds=time.monotonic() - started)
            raise
        except BaseException as error:
            status, message = _ending(error, received)
    if message:
        print(message, file=sys.stderr)
        log_event("error", message=message)
    log_event("end", status=status, seconds=time.monotonic() - started)
    if status:
        raise SystemExit(status)


def _ending(error: BaseException, received: Sequence[int]) -> tuple[int, str]:
    """The exit status and the message that an exception ends a command with; one that is a defect is raised again."""
    if received or isinstance(error, KeyboardInterrupt):
        number = received[0] if received else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else "terminated"
        return 128 + number, f"{how}; run the same command again to continue"
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return 128 + signal.SIGPIPE, ""
    if getattr(error, "errno", None) in DISK_FULL or NO_SPACE in str(error):
        return 1, f"error: the disk is full: {error}. Free some space, or choose another folder"
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        reason = str(error).strip().partition("\n")[0][:200] or "an array is larger than what is left"
        return 1, f"error: the memory is full: {reason}. Take smaller batches or sizes, or fewer processes"
    if isinstance(error, UserError | OSError):
        return 1, f"error: {_said(error)}"
    if type(error).__name__ == "PanicException" and "threads" in str(error):  # polars takes no other way out
        return 1, f"error: {error}; look at POLARS_MAX_THREADS"
    if isinstance(error, ValueError) and "MASTER_ADDR" in str(error):  # of accelerate
        return 1, (
            f"error: WORLD_SIZE={os.environ.get('WORLD_SIZE')} in the environment asks for several processes, but "
            "MASTER_ADDR, where they meet, is not set; unset WORLD_SIZE and RANK, or start them by accelerate launch"
        )
    raise error


def _said(error: UserError | OSError) -> str:
    """An error in words: of the system's, which file it is about, and what to do where it is known."""
    place = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(error, OSError) or place is None:
        return str(error)
    remedy = SYSTEM_REMEDIES.get(error.errno)
    return f"{place}: {(error.strerror or str(error)).lower()}" + (f"; {remedy}" if remedy else "")


def _nobody_reads() -> bool:
    """Whether whoever read the output has gone, as ``head`` does."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in reader.poll(0)):
        return False
    # So that Python does not stumble over it again when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
