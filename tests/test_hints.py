"""No message tells the user of a command to use a setting that the command does not have."""

import importlib
import re

import polars as pl
import pytest

from data_tools.common import hints
from data_tools.common.cli import parse_settings, run_command
from data_tools.common.errors import UserError
from data_tools.common.parser import Parser
from data_tools.log.examples import label_hint
from data_tools.prepare import Settings as Prepare
from downstream.score import Settings as Score
from tests.hints import definitions, reached
from tests.test_project import COMMANDS, ROOT

# A setting behind one of these is one of another command, which the text names.
ANOTHER = re.compile(r"\b(data_tools|pretrain|downstream)[./]\w+|\b[Pp]repar(e|ing)\b|\b(pip install|docker run)\b")
# Not looked into: what cannot go wrong there, or is said of a setting by the settings themselves.
PASSED_OVER = {
    "data_tools.common.parser.Parser": "it speaks of all settings",
    "data_tools.common.provenance.commit": "it calls git",
    "data_tools.simulation.make.make_world": "the simulated data are sound",
    "data_tools.log.engines.Spark": "only --engine asks for it",
    "downstream.comparison.sources._exported": "arguments of the commands that it runs",
    "downstream.comparison.sources._trained": "arguments of the commands that it runs",
    "data_tools.shards.main": "the next command, in two parts",
    "downstream.training.run.RunSettings": "read back from a run they were checked when it was made",
    "downstream.training.warm_up.WarmUp": "only --warm_up makes it",
    "pretrain.encoder.families.base.EncoderFamily": "only --layer asks for stages",
    "pretrain.training.runs.load_checkpoint": "only --resume calls it",
    "pretrain.training.runs.open_run": "only training calls it",
}
STYLES = re.compile(r"var\(--\w+\)")
SECTIONS = ("encoder", "objective", "batch")  # of a run: its settings were checked when it was made


@pytest.fixture(scope="module")
def known():
    found = definitions(ROOT)
    assert PASSED_OVER.keys() <= found.keys()
    return {name: one for name, one in found.items() if name not in PASSED_OVER}


def unknown(text, settings):
    """The settings that a text names, but for those of another command that it names before them."""
    text = STYLES.sub("", text)
    found = [(match.start(), match[1].replace("-", "_")) for match in hints.SETTING.finditer(text)]
    return [
        name
        for place, name in found
        if not any(one == name or one.startswith(f"{name}.") for one in settings)
        and not ANOTHER.search(text[:place])
        and name.split(".")[0] not in SECTIONS
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_messages_name_settings_that_the_command_has(command, known):
    settings = {*Parser.of(importlib.import_module(command).Settings, "").known, "config", "help"}
    wrong = [
        (name, text, missing)
        for name in sorted(reached(f"{command}.main", known))
        for text in known[name].texts
        if (missing := unknown(text, settings))
    ]
    assert not wrong


def test_the_reader_finds_what_a_message_names(known):
    texts = [text for name in reached("data_tools.prepare.main", known) for text in known[name].texts]
    assert any("--unclicked N" in text for text in texts)  # of a method of a class that is reached
    assert not any("--rating-threshold 1" in text for text in texts)  # what hint is given
    assert unknown("say --images, or prepare it with --other", {"out"}) == ["images"]
    assert unknown("in --column.name and --out-place", {"column.name"}) == ["out_place"]


def test_what_to_do_about_labels_names_what_the_command_has():
    said = {}
    for settings in (Score, Prepare):
        with hints.command():
            hints.has(Parser.of(settings, "").known)
            (said[settings],) = label_hint(pl.Series(["no, thanks", "view", "view"]))
    assert "as in --click-values '\"no, thanks\"'" in said[Score] and "--rating-threshold" not in said[Score]
    assert "as in --click-values '\"no, thanks\"'" in said[Prepare] and "set --rating-threshold 1" in said[Prepare]


def test_a_hint_is_given_where_the_command_has_its_settings(monkeypatch, capsys):
    said = []

    def main():
        parse_settings(Score, "", ["--run", "r", "--log", "l", "--out", "o"])
        said.append(hints.hint("use --click-values", "mend it"))
        said.append(hints.hint("use --rating-threshold 1 or --click-values", "mend it"))
        raise UserError("the end")

    with pytest.raises(SystemExit):
        run_command(main)
    assert said == ["use --click-values", "mend it"]
    assert hints.hint("use --rating-threshold 1") == "use --rating-threshold 1"  # from Python
