import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from data_tools.common.files import read_json, write_json
from pretrain.evaluation.page_auc import encoder_page_auc, load_requests, oracle_page_auc, page_auc

SCORED = {"image_size": 32, "history": 30, "seed": 0}


def test_page_auc_equals_scikit_learn_page_by_page():
    rng = np.random.default_rng(0)
    score = torch.tensor(rng.integers(0, 4, (60, 6)) / 4.0)  # with ties
    click = torch.tensor(rng.random((60, 6)) < 0.3)
    kept = torch.tensor(rng.random((60, 6)) < 0.8)
    expected = [
        roc_auc_score(click[row][kept[row]], score[row][kept[row]])
        for row in range(60)
        if len(click[row][kept[row]].unique()) == 2
    ]
    found = page_auc(score, click, kept)
    assert found["auc"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert found["pages"] == len(expected)


def test_scores_that_are_not_numbers_have_no_auc():
    score, click = torch.tensor([[0.1, float("nan")], [0.2, 0.1]]), torch.tensor([[True, False], [True, False]])
    assert np.isnan(page_auc(score, click, torch.ones(2, 2, dtype=torch.bool))["auc"])
    assert page_auc(score, click, ~score.isnan())["auc"] == 1


def test_oracle_is_far_above_chance_and_known_on_both_slices(tiny_world):
    requests = load_requests(tiny_world / "shards", "test", **SCORED, limit=1000)
    known = oracle_page_auc(requests)
    assert known["warm"]["auc"] > 0.7
    assert known["cold"]["auc"] > 0.7
    assert len(requests.images) == len(
        {int(k) for k in torch.cat([requests.history, requests.page], 1).flatten()} - {-1}
    )


def test_a_limit_takes_a_sample(tiny_world):
    whole, sample = (load_requests(tiny_world / "shards", "test", **SCORED, limit=limit) for limit in (1000, 20))
    known = {tuple(row.tolist()) for row in whole.oracle}
    assert len(sample.page) == len({tuple(row.tolist()) for row in sample.oracle} & known) == 20
    assert len(sample.images) == len({int(k) for k in torch.cat([sample.history, sample.page], 1).flatten()} - {-1})


def test_a_split_without_requests_has_no_auc(tiny_world, tmp_path):
    index = read_json(tiny_world / "shards" / "index.json")
    index["requests"]["valid"] = []
    for file in [*(tiny_world / "shards").glob("*.tar"), *(tiny_world / "shards").glob("*.parquet")]:
        (tmp_path / file.name).symlink_to(file)
    write_json(tmp_path / "index.json", index)
    found = encoder_page_auc(torch.nn.Linear(1, 1), load_requests(tmp_path, "valid", **SCORED, limit=1000))
    assert {name: slot["pages"] for name, slot in found.items()} == {"warm": 0, "cold": 0}
