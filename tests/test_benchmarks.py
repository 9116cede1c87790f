"""The benchmarks' closing lines, and that every short form is still understood by its program."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_tools.common.cli import parse_settings
from data_tools.common.errors import UserError
from tests.benchmarks.__main__ import SHORT, WITHOUT_FULL, Settings, flags
from tests.benchmarks.report import Ratio, finish

PROGRAMS = Path(__file__).parent / "benchmarks"
LIBRARIES = {
    "__main__",
    "report",
    "click_log",
    "drawn_impressions",
    "ctr_growth_measures",
    "ctr_growth_page",
    "lsplm_solver",
    "own_memory",
    "seeded",
    "choices",
    "fuzz_targets",
}
# Pictures, and tables of their own.
WITHOUT_RATIOS = {
    "ams_picture",
    "stage_growth",
    "long_run",
    "ams_bytes",
    "ams_hours",
    "inputs",
    "coverage",
    "leaks",
    "kills",
    "fuzz",
    "near_duplicate_negatives",
}


@dataclass(frozen=True)
class Written:
    """Settings of a program."""

    out: str | None
    steps: int = 3


@pytest.mark.parametrize(
    ("ratio", "held"),
    [
        (Ratio("images a second", 9.0, 10.0, "theirs", 0.9), True),
        (Ratio("images a second", 8.9, 10.0, "theirs", 0.9), False),
        (Ratio("seconds", 11.0, 10.0, "theirs", 1.1, at_most=True), True),
        (Ratio("seconds", 11.1, 10.0, "theirs", 1.1, at_most=True), False),
        (Ratio("seconds", 99.0, 10.0, "theirs"), True),
    ],
)
def test_a_missed_target_is_an_error_after_the_file_is_written(ratio, held, tmp_path, capsys):
    settings = Written(str(tmp_path / "found.json"))
    if held:
        finish(settings, {"rows": 7}, [ratio])
    else:
        with pytest.raises(UserError, match="a target was missed"):
            finish(settings, {"rows": 7}, [ratio])
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["settings"] == {"steps": 3} and written["rows"] == 7
    assert written["ratios"][0]["ratio"] == pytest.approx(ratio.ours / ratio.other)
    assert written["commit"] and written["versions"]["torch"] and written["machine"]["cores"]
    assert ("missed" in capsys.readouterr().out) != held


def test_one_held_target_is_enough_where_any_is(capsys):
    ratios = [Ratio("rate", 1.0, 2.0, "theirs", 0.9), Ratio("rate", 2.0, 2.0, "theirs", 0.9)]
    finish(Written(None), {}, ratios, needed=any)
    with pytest.raises(UserError, match="every target was missed"):
        finish(Written(None), {}, ratios[:1], needed=any)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("full", [False, True])
def test_flags_are_understood(name, full, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PROGRAMS))
    program = importlib.import_module(name)
    given = flags(name, Settings(full=full), tmp_path)
    settings = parse_settings(program.Settings, "", [*given, "--out", "x.json"])
    assert settings.out == "x.json"
    if full and name not in WITHOUT_FULL:
        assert settings == parse_settings(program.Settings, "", ["--out", "x.json"])


def test_every_program_ends_in_the_same_way():
    for file in PROGRAMS.glob("*.py"):
        if file.stem not in LIBRARIES | WITHOUT_RATIOS:
            text = file.read_text(encoding="utf-8")
            assert "finish(" in text and "made_by" not in text, f"{file.name} should end in report.finish"
