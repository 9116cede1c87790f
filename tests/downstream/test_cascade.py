"""The stages of a cascade against brute force, and its command."""

import json

import numpy as np
import pytest
import torch

from data_tools.common.cli import UserError
from data_tools.tables.table import read_table
from downstream import cascade as command_module
from downstream.data.ctr_data import load_ctr_data
from downstream.images.joined import join_table
from downstream.models.build import build_model
from downstream.settings import DataSettings
from downstream.studies import cascade
from downstream.studies.stages import Cascade, best, qscore
from downstream.training.settings import ImageSettings, ModelSettings


@pytest.fixture(scope="module")
def data(tiny_world):
    return load_ctr_data(tiny_world / "dataset", DataSettings(history=4))


@pytest.fixture(scope="module")
def stages(data, tiny_world):
    torch.manual_seed(0)
    images = join_table(read_table(tiny_world / "planted"), data)
    pre, ranker = (build_model(data, images, ModelSettings(name), ImageSettings()) for name in ("dqm", "din"))
    return Cascade(data, qscore(data, 10.0), pre, ranker, (60, 20, 5))


def test_qscore_is_the_smoothed_click_rate(data):
    shown = data.dataset.impressions.filter(split="train")
    rate = shown["click"].mean()
    scores = qscore(data, 10.0)
    for item in range(len(data.item_code)):
        own = shown.filter(item=item)["click"]
        assert scores[item] == pytest.approx((own.sum() + 10 * rate) / (len(own) + 10))


def test_the_best_are_the_highest_and_ties_go_by_place():
    rng = np.random.default_rng(0)
    for keep in (1, 7, 50, 80):
        scores = rng.integers(10, size=50).astype(float)
        assert best(scores, keep).tolist() == sorted(range(50), key=lambda place: (-scores[place], place))[:keep]


def test_each_stage_keeps_the_best_of_those_before(data, stages):
    row = int(data.rows["test"][7])
    left, seconds = stages.run(row)
    first, time = data.dataset.items["first_seen"].to_list(), data.dataset.impressions["timestamp"][row]
    items = [item for item in range(len(first)) if first[item] is not None and first[item] <= time]
    assert len(seconds) == 3 and len(items) < len(first)

    def kept(scores, among, keep):
        return sorted(among, key=lambda item: (-scores[item], among.index(item)))[:keep]

    items = kept(stages.scores, items, 60)
    assert left[0].tolist() == items
    everything = np.arange(len(first))
    shown = data.with_impressions(np.full(len(first), row), everything)
    batch = {name: torch.from_numpy(values) for name, values in shown.batch(everything).items()}
    for model, place, keep in ((stages.pre, 1, 20), (stages.ranker, 2, 5)):
        with torch.inference_mode():
            items = kept(model(batch).numpy(), items, keep)
        assert left[place].tolist() == items


def test_the_ranker_alone_finds_all_of_its_best(data, stages):
    whole = Cascade(data, stages.scores, stages.pre, stages.ranker, (1000, 1000, 5))
    rows = cascade.logged_requests(data, 12)
    assert len(set(data.dataset.impressions["request"].gather(rows).to_list())) == 12
    found = cascade.measure([whole], rows, lambda: None)
    assert [stage["survival"]["mean"] for stage in found["stages"]] == [1.0, 1.0, 1.0]
    narrow = cascade.measure([stages, stages], rows, lambda: None)
    shares = [stage["survival"]["mean"] for stage in narrow["stages"]]
    assert shares[0] < 1 and shares == sorted(shares, reverse=True)
    operations = [stage["operations"] for stage in narrow["stages"]]
    assert operations[0] == 0 < operations[1] < operations[2]


def test_the_command(tiny_world, tmp_path, monkeypatch):
    given = ["--dataset", str(tiny_world / "dataset"), "--keep", "[60, 20, 5]", "--requests", "10"]
    given += ["--tables", json.dumps({"IDs only": None, "planted": str(tiny_world / "planted")})]
    given += ["--cache", str(tmp_path / "cache"), "--training.data.history", "4", "--seeds", "[0]"]

    def command(*more):
        monkeypatch.setattr("sys.argv", ["program", *given, *more])
        command_module.main()

    command("--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page and "IDs only" in page and "http" not in page.split("<h2>How")[0]
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    summary = json.loads((tmp_path / "cache" / "planted-din-0" / "summary.json").read_text())
    assert figures["tables"]["planted"]["stages"][2]["gauc"]["mean"] == summary["metrics"]["test"]["all"]["gauc"]
    monkeypatch.setattr(cascade, "train", None)  # nothing is trained again
    command("--out", str(tmp_path / "again"))
    with pytest.raises(UserError, match="other settings"):
        command("--out", str(tmp_path / "other"), "--training.optim.epochs", "2")
    with pytest.raises(UserError, match="two towers"):
        command("--out", str(tmp_path / "other"), "--pre", "din")
