"""Small scenes, conversions and the oracle of the simulated world."""

import dataclasses
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from data_tools.common.cli import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.oracle import auc, oracle_by_slice, within_page_auc
from data_tools.simulation.settings import World

SMALL = World(items=400, users=300, requests=6000, slots=5, days=20)


def change(**settings):
    return dataclasses.replace(SMALL, **settings)


def taste_in_odds(world):
    """What taste adds to each impression's log odds, and its scene."""
    catalogue, log = simulate(world)
    known = 0.3 * catalogue.popularity[log["item"].to_numpy()] - world.position_bias * log["position"].to_numpy()
    return logit(log["oracle"].to_numpy()) - known, log["scene"].to_numpy(), log


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_a_small_scene_shares_the_taste_that_is_not_its_own(shift):
    base, scene, log = taste_in_odds(change(small_scenes=2, scene_shift=0.0))
    shifted, _, shifted_log = taste_in_odds(change(small_scenes=2, scene_shift=shift))
    assert log["item"].equals(shifted_log["item"])
    for number in range(5):
        expected = np.sqrt(1 - shift) if number >= 3 else 1
        here = scene == number
        assert np.corrcoef(base[here], shifted[here])[0, 1] == pytest.approx(expected, abs=0.12)
        assert shifted[here].std() == pytest.approx(base[here].std(), rel=0.12)


def test_tastes_are_turned_round_in_small_scenes_alone():
    straight, scene, _ = taste_in_odds(change(small_scenes=1))
    turned, _, _ = taste_in_odds(change(small_scenes=1, scene_taste=-0.5))
    small = scene == 3
    np.testing.assert_allclose(turned[~small], straight[~small], atol=1e-9)
    constant = SMALL.base + 0.8  # the log odds of the first small scene
    np.testing.assert_allclose(turned[small] - constant, -0.5 * (straight[small] - constant), atol=1e-9)


def test_scenes_have_their_share_and_their_click_rate():
    world = change(small_scenes=2, small_scene_share=0.1, requests=20_000)
    assert world.scenes == ("home", "search", "new", "small1", "small2")
    odds, scene, log = taste_in_odds(world)
    pages = log.unique("request")["scene"].value_counts().sort("scene")["count"].to_numpy() / world.requests
    np.testing.assert_allclose(pages, [0.32, 0.24, 0.24, 0.1, 0.1], atol=0.015)
    means = [odds[scene == number].mean() for number in range(5)]
    np.testing.assert_allclose(np.array(means) - means[0], [0, 0.4, -0.1, 0.8, -0.8], atol=0.15)
    rates = [log.filter(pl.col("scene") == number)["click"].mean() for number in (3, 0, 4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] - rates[2] > 0.15


@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_conversions_follow_a_taste_partly_their_own(own):
    base, _, clicks_only = taste_in_odds(SMALL)
    world = change(conversion_own=own, conversion_rate=0.3, conversion_strength=2.0)
    _, log = simulate(world)
    assert log["click"].equals(clicks_only["click"])
    buying = logit(log["oracle_conversion"].to_numpy() / world.conversion_rate)
    assert buying.std() == pytest.approx(2, rel=0.1)
    assert np.corrcoef(base, buying)[0, 1] == pytest.approx(np.sqrt(1 - own), abs=0.1)
    clicked = log.filter(pl.col("click") == 1)
    expected = clicked["oracle_conversion"].sum()
    assert log["conversion"].sum() == clicked["conversion"].sum()
    assert abs(clicked["conversion"].sum() - expected) < 4 * np.sqrt(expected)


def test_oracle_figures_are_scikit_learns():
    _, log = simulate(change(requests=700))
    log = log.with_columns(split=pl.Series(["train", "test"]).gather((log["time"] > log["time"].median()).cast(int)))
    found = oracle_by_slice(log)
    test = log.filter(pl.col("split") == "test")
    cold = set(test["item"]) - set(log.filter(pl.col("split") == "train")["item"])
    slices = {"all": test, "cold": test.filter(pl.col("item").is_in(list(cold)))}
    slices["scene 1"] = test.filter(pl.col("scene") == 1)
    assert 0 < len(slices["cold"]) < len(test)
    assert set(found) == {"all", "warm", "cold", "scene 0", "scene 1", "scene 2"}
    assert found["warm"]["impressions"] + found["cold"]["impressions"] == len(test)
    for name, part in slices.items():
        assert found[name]["auc"] == pytest.approx(roc_auc_score(part["click"], part["oracle"]))
        pages = [page for _, page in part.group_by("request") if page["click"].n_unique() == 2]
        by_page = np.mean([roc_auc_score(page["click"], page["oracle"]) for page in pages])
        assert found[name]["page_auc"] == pytest.approx(by_page)
        clicked = part.filter(pl.col("click") == 1)
        given_click = roc_auc_score(clicked["conversion"], clicked["oracle_conversion"])
        assert found[name]["conversion_auc_given_click"] == pytest.approx(given_click)
        both = roc_auc_score(part["conversion"], part["oracle"] * part["oracle_conversion"])
        assert found[name]["conversion_auc"] == pytest.approx(both)


def test_ties_count_half_and_one_label_has_no_auc():
    log = pl.DataFrame({"request": [0, 0, 0, 1, 1], "score": [1.0, 1.0, 0.0, 2.0, 3.0], "click": [1, 0, 0, 1, 1]})
    assert within_page_auc(log, "score", "click") == pytest.approx(0.75)
    assert auc(log, "score", "click") == pytest.approx(roc_auc_score(log["click"], log["score"]))
    assert auc(log[3:], "score", "click") is None
    assert within_page_auc(log[3:], "score", "click") is None


def test_oracle_in_the_dataset_is_that_of_the_probabilities_in_it(tiny_world):
    dataset = open_dataset(tiny_world / "dataset")
    test = dataset.impressions.filter(pl.col("split") == "test")
    oracle = dataset.info["oracle"]
    assert oracle["all"]["auc"] == pytest.approx(roc_auc_score(test["click"], test["oracle"]))
    assert oracle["scene new"]["impressions"] == (test["scene"] == "new").sum()


def test_position_popularity_and_base_move_the_clicks():
    """A strong position bias, and none; popularity; a lower base: seen in the click rates."""
    _, biased = simulate(change(position_bias=1.0))
    _, flat = simulate(change(position_bias=0.0))
    by_position = [log.group_by("position").agg(pl.col("click").mean()).sort("position") for log in (biased, flat)]
    assert (np.diff(by_position[0]["click"]) < -0.03).all()
    assert np.ptp(by_position[1]["click"].to_numpy()) < 0.03
    catalogue, popular = simulate(change(popularity=2.0))
    shown = np.bincount(popular["item"].to_numpy(), minlength=len(catalogue))
    assert np.corrcoef(shown, np.exp(0.5 * catalogue.popularity))[0, 1] > 0.3
    assert simulate(change(base=-4.0))[1]["click"].mean() < 0.5 * flat["click"].mean()


def test_another_process_draws_the_same_world():
    program = (
        "from data_tools.simulation.behaviour import World, simulate;"
        "print(simulate(World(items=50, users=20, requests=200, small_scenes=1, scene_shift=0.5, conversion_own=0.5))"
        "[1].hash_rows(0).sum())"
    )
    _, log = simulate(World(items=50, users=20, requests=200, small_scenes=1, scene_shift=0.5, conversion_own=0.5))
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(other.stdout) == log.hash_rows(0).sum()


@pytest.mark.parametrize(
    "settings",
    [{"visual_share": 1.5}, {"users": 0}, {"small_scenes": 20}, {"scene_shift": -0.1}, {"photo_titles": "some"}],
)
def test_settings_out_of_range_are_reported(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        change(**settings)
