"""Finished runs in one table: one line a group of seeds, means by hand."""

import json
import os

import pytest

from data_tools.common.cli import UserError
from pretrain.pages.comparison import finished_runs, markdown, table_lines


def write_run(folder, seed, lr, cold, warm, validation, names=("cold", "warm")):
    folder.mkdir(parents=True)
    data = "shards" if seed else os.path.abspath("shards")
    settings = {"data": data, "seed": seed, "out": str(folder), "resume": False, "optim": {"lr": lr}}
    made = {"settings": settings, "commit": "abc", "machine": {"cpu": "one", "gpu": None}}
    auc = {
        name: {"trained": value, "untrained": 0.5 + seed / 100, "oracle": 0.9}
        for name, value in zip(names, (cold, warm), strict=True)
    }
    figures = {"page_auc": auc, "effective_rank": 7.0 + seed, "steps": 60, "seconds": 100.0, "seed": seed}
    (folder / "run.json").write_text(json.dumps(made))
    (folder / "summary.json").write_text(json.dumps(figures))
    (folder / "best.json").write_text(json.dumps({"auc": validation, "step": 60}))


def test_seeds_of_one_setting_are_one_line(tmp_path):
    write_run(tmp_path / "plain-0", 0, 0.1, 0.60, 0.62, 0.70)
    write_run(tmp_path / "plain-1", 1, 0.1, 0.64, 0.66, 0.80)
    write_run(tmp_path / "sharp-0", 0, 0.2, 0.70, 0.58, 0.74)
    (tmp_path / "stopped-0").mkdir()
    groups = finished_runs(f"{tmp_path}/*")
    assert {name: len(own) for name, own in groups.items()} == {"plain": 2, "sharp": 1}
    oracle, first, second, untrained = table_lines(groups)  # the best on validation comes first, whatever the test says
    assert oracle[3:5] == ["0.9000", "0.9000"]
    assert second == ["sharp", "0", "0.7400", "0.7000", "0.5800", "7.0", "60", "100"]
    assert first == [
        "plain",
        "0, 1",
        "0.7500 ± 0.0707",
        "0.6200 ± 0.0283",
        "0.6400 ± 0.0283",
        "7.5 ± 0.7",
        "60",
        "100 ± 0",
    ]
    assert untrained[3] == "0.5050 ± 0.0071"  # a seed once, however many runs have it
    assert "| plain | 0, 1 |" in markdown(groups, "x")


def test_a_run_of_another_version_ends_in_one_message(tmp_path):
    write_run(tmp_path / "new-0", 0, 0.1, 0.60, 0.62, 0.70)
    write_run(tmp_path / "old-1", 1, 0.1, 0.64, 0.66, 0.80, names=("unseen", "seen"))
    with pytest.raises(UserError, match=r"old-1/summary.json was made by another version .*cold.*: train again"):
        finished_runs(f"{tmp_path}/*")


def test_without_a_finished_run_the_message_says_so(tmp_path):
    (tmp_path / "stopped").mkdir()
    with pytest.raises(UserError, match=r"1 folders, none with a finished run"):
        finished_runs(f"{tmp_path}/*")
