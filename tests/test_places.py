"""Places that nothing can be written to: one message, before any work, whatever the command."""

import importlib
import os
import sys

import pytest

from data_tools.common.cli import parse_settings, run_command
from data_tools.common.errors import UserError
from data_tools.common.files import refuse_existing, whole_file
from data_tools.common.parser import Parser
from data_tools.common.places import LONGEST_NAME, check_place
from tests.test_project import COMMANDS

# Required settings that are no text.
LISTS = {"comparisons": "[a, b]", "at": "[1, 2]", "tables": '{"a": null, "b": null}', "source": "movielens"}
UNUSABLE = {
    "a\nb": "holds a control character, '\\\\n': 'a\\\\nb'; choose a name without",
    "a\x1b[31mb": "holds a control character, '\\\\x1b'",
    "a\x00b": "holds a control character, '\\\\x00'",
    "x" * 300: f"holds a name of 300 bytes, x+...; names may have {LONGEST_NAME}",
    "ü" * 140: f"holds a name of 280 bytes, ü+...; names may have {LONGEST_NAME}",
    "/".join(["d" * 200] * 25): r"is a path of 5\d\d\d bytes, .*; paths may have 4000",
    "log.csv/out": "log.csv/out cannot be made: .*log.csv is not a folder; choose another place",
    "log.csv/deep/out": "log.csv/deep/out cannot be made: .*log.csv is not a folder; choose another place",
}


def writing():
    """The commands that have --out, each with its settings and arguments that it cannot do without."""
    for command in COMMANDS:
        settings = importlib.import_module(command).Settings
        actions = Parser.of(settings, "")._actions
        required = [action.dest for action in actions if action.required and action.dest != "out"]
        if any(action.dest == "out" for action in actions):
            yield pytest.param(settings, [f"--{name}={LISTS.get(name, 'x')}" for name in required], id=command)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("user_id")
    return tmp_path


@pytest.mark.parametrize(("settings", "arguments"), writing())
def test_every_command_says_what_is_wrong_with_a_place(settings, arguments, folder):
    for place, said in UNUSABLE.items():
        with pytest.raises(UserError, match=said):
            parse_settings(settings, "", [*arguments, f"--out={place}"])
    assert os.listdir(folder) == ["log.csv"]


@pytest.mark.parametrize("place", ["new", "new/deep", "x" * 230, "a,b = c [1]", "é ü", "log.csv", ".", "/dev/null"])
def test_other_places_are_left_to_the_command(place):
    check_place(place)


def test_a_folder_that_cannot_be_written_to_is_named(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, how: str(place) != str(folder))  # whoever runs the tests
    with pytest.raises(UserError, match=rf"{folder} cannot be written to by this user; choose another place"):
        check_place("new/out")


def test_an_empty_place_is_refused():
    with pytest.raises(UserError, match="--out is empty; name a file or a folder"):
        check_place("", "out")


def test_from_python_too(folder):
    with pytest.raises(UserError, match="holds a control character"):
        refuse_existing(folder / "a\tb")
    (folder / "pages").mkdir()
    with pytest.raises(UserError, match="pages is a folder; name a file"), whole_file(folder / "pages") as scratch:
        scratch.write_text("x")
    assert sorted(os.listdir(folder)) == ["log.csv", "pages"]


@pytest.mark.parametrize(
    ("command", "arguments", "place", "said"),
    [
        ("data_tools.world", [], "log.csv", "log.csv is a file; name a folder"),
        ("data_tools.inspect", ["--dataset=x"], "held", "held is a folder; name a file"),
        ("pretrain.compare_runs", ["--runs=x"], "held", "held is a folder; name a file"),
        ("pretrain.train", ["--data=shards"], "log.csv", "log.csv is a file; name a folder"),
        (
            "downstream.compare",
            ["--dataset=x", '--sources={"ids": {}, "courier": {"table": "x"}}'],
            "log.csv",
            "log.csv is a file",
        ),
        ("downstream.transfer", ["--dataset=x"], "log.csv", "log.csv is a file; name a folder"),
        ("downstream.cascade", ["--dataset=x", f"--tables={LISTS['tables']}"], "log.csv", "log.csv is a file"),
    ],
)
def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(
    command, arguments, place, said, folder, tiny_world, monkeypatch, capsys
):
    (folder / "held").mkdir()
    (folder / "shards").symlink_to(tiny_world / "shards")
    monkeypatch.setattr(sys, "argv", [command, *arguments, f"--out={place}"])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(command).main)
    assert end.value.code == 1 and capsys.readouterr().err.startswith(f"error: {said}")
    assert (folder / "log.csv").read_text() == "user_id" and not any((folder / "held").iterdir())


def test_what_the_system_says_of_a_file_names_it(folder, capsys):
    def main():
        open(folder / "held")  # noqa: SIM115

    (folder / "held").mkdir()
    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == f"error: {folder}/held: is a directory; name a file, not a folder\n"
