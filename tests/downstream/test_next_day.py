"""The session of the docs, as a new user: prepare and train on days 1 to 5, score day 6 from its CSV."""

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_tools import prepare
from data_tools.common.files import read_json
from data_tools.dataset.schema import open_dataset
from data_tools.tables.table import read_table, write_table
from downstream import score, train
from downstream.statistics.metrics import all_metrics

DOCS = Path(__file__).parents[2] / "docs" / "own-data.md"
COMMANDS = {"data_tools.prepare": prepare, "downstream.train": train, "downstream.score": score}
MINE = {"user_id": "player", "item_id": "game", "timestamp": "time", "click": "liked", "scene": "scene"}
DAY = 86_400


def commands(name: str) -> list[str]:
    """The first command of this name in the docs, as arguments."""
    text = DOCS.read_text().replace("\\\n", " ")
    return shlex.split(re.search(rf"^python -m ({re.escape(name)} .*)$", text, re.MULTILINE)[1])[1:]


@pytest.fixture(scope="module")
def days(tiny_world, tmp_path_factory):
    """The simulated shop as a user's own files: log.csv of days 1 to 5, tomorrow.csv, items.csv and pictures/."""
    folder, dataset = tmp_path_factory.mktemp("shop"), open_dataset(tiny_world / "dataset")
    log = dataset.impressions.with_columns(day=1 + (pl.col("timestamp") - pl.col("timestamp").min()) // DAY)
    named = [*(pl.col(ours).alias(theirs) for ours, theirs in MINE.items()), "day"]
    log = log.select(named)
    log.filter(pl.col("day") <= 5).drop("day").write_csv(folder / "log.csv")
    log.filter(pl.col("day") == 6).drop("day").write_csv(folder / "tomorrow.csv")
    items = dataset.items.select(game="item_id", cover=pl.col("image").str.strip_prefix("images/"), name="title")
    items.write_csv(folder / "items.csv")
    (folder / "pictures").symlink_to(dataset.folder / "images")
    # The vectors of what an export of day 5 could know: items that day 6 shows first are not among them.
    known = set(log.filter(pl.col("day") <= 5)["game"])
    planted, info = read_table(tiny_world / "planted"), {"encoder": {"name": "planted"}}
    (folder / "my").mkdir()
    for name, rows in {
        "table": [row for row, item in enumerate(planted.ids) if item in known],
        "new_items": [row for row, item in enumerate(planted.ids) if item not in known],
    }.items():
        if rows:
            write_table(folder / "my" / name, [planted.ids[row] for row in rows], planted.vectors[rows], info)
    return folder


def test_days_one_to_five_are_learned_and_day_six_is_scored(days, monkeypatch, capsys):
    monkeypatch.chdir(days)
    for name, module in COMMANDS.items():
        extra = ["--optim.batch_size", "64", "--optim.epochs", "2"] if name == "downstream.train" else []
        monkeypatch.setattr("sys.argv", [name, *commands(name), *extra])
        module.main()
    said = capsys.readouterr().out
    log, scores = pl.read_csv("tomorrow.csv"), pl.read_parquet("scores.parquet")
    assert len(log) > 100 and scores.height == len(log) and scores["score"].is_between(0, 1).all()
    for ours, theirs in MINE.items():
        if ours != "scene":
            assert scores[ours].cast(pl.String).to_list() == log[theirs].cast(pl.String).to_list()
    found = all_metrics(log["liked"].to_numpy(), scores["score"].to_numpy(), log["player"].to_numpy())
    assert found["auc"] > 0.55  # what days 1 to 5 taught holds on day 6
    assert f"auc {found['auc']:.4f}" in said and f"{len(log):,} of {len(log):,} rows scored" in said
    # Days 1 to 5 are what training saw, whichever way the log was split.
    trained = open_dataset("my/dataset").info
    assert trained["time_range"][1] < log["time"].min()
    assert read_json("runs/dicm/summary.json")["dataset_fingerprint"] == trained["fingerprint"]
    shown = set(open_dataset("my/dataset").impressions.filter(pl.col("split") == "train")["item_id"])
    assert scores["known_item"].to_list() == [item in shown for item in log["game"]]
    assert np.isfinite(scores["score"].to_numpy()).all()
