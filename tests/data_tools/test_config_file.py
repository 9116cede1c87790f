"""YAML files of settings, as people damage them: each is one message with the line, in every command alike."""

from __future__ import annotations

import importlib

import pytest

from data_tools.common.cli import parse_settings
from data_tools.simulation.settings import World
from downstream import compare
from downstream import train as ctr
from pretrain import train

MODULES = ("prepare", "shards", "convert", "convert_table", "inspect")
COMMANDS = {name: importlib.import_module(f"data_tools.{name}").Settings for name in MODULES}
COMMANDS |= {"world": World, "train": train.Settings, "compare": compare.Settings, "ctr": ctr.Settings}

# Text of the file -> part of the message.
EVERYWHERE = {
    "config: other.yaml": "line 1: unknown setting config; name each file by --config",
    "config: {a: 1}": "unknown setting config",
    "config:": "unknown setting config",
    "help: true": "unknown setting help; the nearest is",
    "print_config: true": "unknown setting print_config",
    "__path__: x": "unknown setting __path__",
    "class_path: x": "unknown setting class_path",
    "init_args: {}": "unknown setting init_args",
    "'': 1": "unknown setting ;",
    "a b: 1": "unknown setting a b",
    "1: 2": "line 1: '1' is not the name of a setting",
    "~: 2": "'~' is not the name of a setting",
    "yes: 2": "'yes' is not the name of a setting",
    "2020-01-01: 2": "'2020-01-01' is not the name of a setting",
    "? [a, b]\n: 2": "a list or mapping where a name is expected",
    "{{a}}: b": "a list or mapping where a name is expected",
    "quiet: true\nquiet: false": "'quiet' is set twice, in lines 1 and 2",
    "quiet: *x": "line 1, column 8: found undefined alias",
    "quiet: &x [*x]": "--quiet is [[...]]; must be true or false",
    "&x\n<<: *x": "a mapping is merged into itself",
    "- a\n- b": "holds a list; must be settings by name",
    "hello": "holds the text 'hello'",
    "5": "holds the text '5'",
    "\tquiet: true": "line 1, column 1: found character that cannot start any token (a tab; YAML",
    "quiet: true\n---\nquiet: false": "line 2, column 1: but found another document",
    "quiet: \0": "unacceptable character",
    "quiet: !!python/object/apply:os.system [exit]": "could not determine a constructor",
    "quiet.x: 1": "unknown setting quiet.x",
    "quiet: a: b": "line 1, column 9: mapping values are not allowed",
    "a: " + "[" * 3000: "exceeded maximum nesting depth",
    "quiet:": "line 1: quiet is empty; must be true or false",
    "dataset: ~": "line 1: dataset is empty; must be text",
    "url_cache:": "sets nothing",  # which may be null, but then the file is as good as empty
}
IN_SECTIONS = {
    "optim: {steps: 5, steps: 6}": "'steps' is set twice",
    "encoder: {timm: {arguments: {a: 1, a: 2}}}": "'a' is set twice",
    "optim: {help: true}": "unknown setting optim.help",
    "optim: {config: a.yaml}": "unknown setting optim.config",
    "optim: {class_path: a, init_args: {steps: 5}}": "unknown setting optim.class_path",
    "optim: {1: 2}": "'1' is not the name of a setting",
    "optim: a.yaml": "optim is a section; set what it holds, such as optim.steps",
    "optim: [1]": "optim is a section",
    "optim:": "optim is a section",
    "optim.steps: 5\noptim: {lr: 1}": "optim.steps is set outside the section optim; set it inside",
    "optim: &x {steps: 5}\nbatch: {<<: *x}": "unknown setting batch.steps",
    "seed: 010": "line 1: YAML reads 010 as a number of another base",
    "optim:\n  steps: 1:30": "line 2: YAML reads 1:30 as a number of another base",
    "optim: {lr: 1:30.5}": "YAML reads 1:30.5 as a number of another base",
}


def said(settings, text, folder, capsys):
    (folder / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        parse_settings(settings, "", ["--config", str(folder / "c.yaml")])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("text", EVERYWHERE)
def test_what_no_file_may_hold_is_a_message(text, tmp_path, capsys):
    assert EVERYWHERE[text] in said(COMMANDS["shards"], text, tmp_path, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_the_keys_of_the_parser_below(command, tmp_path, capsys):
    for text in ("config: {a: 1}", "class_path: x"):
        assert EVERYWHERE.get(text) in said(COMMANDS[command], text, tmp_path, capsys)


@pytest.mark.parametrize("text", IN_SECTIONS)
def test_what_no_section_may_hold_is_a_message(text, tmp_path, capsys):
    assert IN_SECTIONS[text] in said(train.Settings, text, tmp_path, capsys)


@pytest.mark.parametrize("place", [".", "/dev/null", "nowhere.yaml", ""])
def test_a_configuration_that_is_no_file_is_a_message(place, capsys):
    with pytest.raises(SystemExit):
        parse_settings(World, "", ["--config", place])
    assert capsys.readouterr().err.startswith(("error: --config must be", "error: the configuration"))


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "null\n", "---\n...\n"])
def test_a_file_without_settings_changes_nothing(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert parse_settings(World, "", ["--config", str(tmp_path / "c.yaml")]) == World()


@pytest.mark.parametrize(
    "text",
    [
        "optim: &fast {steps: 5, lr: 1.0}\n",
        "optim: {<<: {steps: 5}, lr: 1.0}\n",
        "optim: {<<: {steps: 9, lr: 1.0}, steps: 5}\n",  # what a section says itself wins over what is merged
        "<<: {optim: {steps: 5, lr: 1.0}}\n",
        "optim.steps: 5\noptim.lr: 1.0\n",
        "\ufeffoptim:\r\n  steps: 5\r\n  lr: 1.0\r\n",
        '{"optim": {"steps": 5, "lr": 1.0}}',
        "optim: {steps: '05', lr: 1e0}",
    ],
)
def test_forms_of_the_same_settings_are_read_alike(text, tmp_path):
    (tmp_path / "c.yaml").write_bytes(text.encode())
    optim = parse_settings(train.Settings, "", ["--config", str(tmp_path / "c.yaml")]).optim
    assert (optim.steps, optim.lr) == (5, 1.0)
