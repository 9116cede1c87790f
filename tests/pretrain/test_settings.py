"""The settings of every command: documented, checked, and written out whole."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from data_tools.common.cli import parse_settings
from data_tools.common.plugins import plugin_settings
from pretrain import compare_runs, export, export_encoder, run_page
from pretrain.settings import Settings

DEFAULT = Path(__file__).parents[2] / "configs" / "pretrain" / "default.yaml"


def sections(settings, name=""):
    """(dotted name, dataclass) of settings, their sections and those of their plug-ins."""
    yield name, settings
    for field, hint in get_type_hints(settings).items():
        if is_dataclass(hint) and field != "world":
            yield from sections(hint, f"{name}.{field}")


def test_the_default_configuration_is_what_the_command_writes(capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, None, ["--print_config"])
    lines = DEFAULT.read_text(encoding="utf-8").splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) == capsys.readouterr().out


COMMANDS = [Settings, *(command.Settings for command in (export, export_encoder, run_page, compare_runs))]


@pytest.mark.parametrize("settings", COMMANDS, ids=lambda settings: settings.__module__)
def test_every_setting_is_documented_and_no_other(settings):
    for name, section in sections(settings):
        documented = {
            line.split(" : ")[0].strip()
            for base in reversed(section.__mro__)
            for line in (base.__doc__ or "").splitlines()
            if " : " in line and line.split(" : ")[0].strip().isidentifier()
        }
        own = {field.name for field in fields(section)}
        assert own - set(plugin_settings(section)) <= documented <= own, f"{settings.__module__}{name}"
