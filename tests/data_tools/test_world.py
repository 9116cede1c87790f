import colorsys
import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.dataset.schema import open_dataset
from data_tools.simulation import render
from data_tools.simulation.attributes import plant, total_taste
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.catalogue import planted_vectors
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import DAY, SCENES, World
from data_tools.tables.table import read_table

SMALL = World(items=400, users=300, requests=6000, slots=5, days=20)


@pytest.fixture(scope="module")
def log():
    return simulate(SMALL)[1]


def within_page_auc(log, score):
    """Mean within-page AUC, page by page with scikit-learn."""
    scored = log.with_columns(score=pl.Series(score))
    pages = [page for _, page in scored.group_by("request") if page["click"].n_unique() == 2]
    return np.mean([roc_auc_score(page["click"], page["score"]) for page in pages])


def test_oracle_is_the_click_probability(log):
    bins = log.with_columns(bin=pl.col("oracle").rank("ordinal") * 10 // (len(log) + 1))
    means = bins.group_by("bin").agg(pl.col("oracle").mean(), pl.col("click").mean(), pl.len().alias("n"))
    spread = 4 * np.sqrt(0.25 / means["n"].to_numpy())
    assert (np.abs(means["oracle"].to_numpy() - means["click"].to_numpy()) < spread).all()


def test_no_item_is_shown_before_it_arrives_and_new_ones_only_in_their_days(log):
    catalogue = simulate(SMALL)[0]
    age = log["time"].to_numpy() - catalogue.arrival[log["item"].to_numpy()]
    assert (age >= 0).all()
    assert (age[log["scene"].to_numpy() == SCENES.index("new")] < SMALL.new_days * DAY).all()


def test_page_views_are_of_one_category_without_repetition(log):
    category = simulate(SMALL)[0].category
    pages = log.with_columns(category=pl.Series(category[log["item"].to_numpy()])).group_by("request")
    counted = pages.agg(pl.col("category").n_unique(), pl.col("item").n_unique(), pl.len().alias("n"))
    assert (counted["category"] == 1).all()
    assert (counted["item"] == counted["n"]).all()


@pytest.mark.parametrize(("share", "wins"), [(0.0, False), (1.0, True)])
def test_visual_share_says_whether_pictures_can_win(share, wins):
    """A user's taste for attributes, learned on half of the items, ranks the other half only where it is planted."""
    world = dataclasses.replace(SMALL, visual_share=share, users=20, strength=3.0, items=4000, requests=2500)
    catalogue, log = simulate(world)
    vectors = planted_vectors(catalogue)[log["item"].to_numpy()]
    first = (log["item"] % 2 == 0).to_numpy()
    user, click = log["user"].to_numpy(), log["click"].to_numpy()
    score = np.zeros(len(log))
    for one in range(world.users):
        mine = user == one
        model = LogisticRegression().fit(vectors[mine & first], click[mine & first])
        score[mine] = model.decision_function(vectors[mine])
    found = within_page_auc(log.filter(~first), score[~first])
    assert found > 0.7 if wins else abs(found - 0.5) < 0.04


def test_same_seed_same_world():
    first, second = simulate(SMALL)[1], simulate(SMALL)[1]
    other = simulate(dataclasses.replace(SMALL, seed=1))[1]
    assert first.equals(second)
    assert not first.equals(other)


def test_only_clicks_convert(log):
    assert log.filter(pl.col("conversion") > pl.col("click")).is_empty()
    assert 0 < log["conversion"].sum() < log["click"].sum()


def test_titles_tell_what_the_world_says(tiny_world):
    items = open_dataset(tiny_world / "dataset").items
    assert all(row["category"] in row["title"] for row in items.iter_rows(named=True))
    named = items["title"].str.contains(" in ").mean()
    assert 0.05 < named < 0.4


def test_planted_table_covers_the_catalogue(tiny_world):
    table = read_table(tiny_world / "planted")
    assert set(table.ids) == set(open_dataset(tiny_world / "dataset").items["item_id"])


def test_planted_vectors_multiply_to_the_covariance_of_tastes():
    """What "a perfect visual embedding" claims, by Monte Carlo over many users."""
    catalogue, _ = simulate(World(items=40, users=10, requests=20))
    users, items = 20_000, np.arange(40)
    tastes = plant(catalogue.visible, users, np.random.default_rng(1))
    rows = [total_taste(catalogue.visible, tastes, np.arange(users), np.full(users, item)) for item in items]
    vectors = planted_vectors(catalogue)
    np.testing.assert_allclose(np.cov(rows), vectors @ vectors.T, atol=0.04)


def test_a_planted_table_of_an_earlier_version_is_made_anew(tiny_world, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "world")
    made, planted = World(**read_json(tiny_world / "world.json")), tmp_path / "world" / "planted"
    write_json(planted / "table.json", read_json(planted / "table.json") | {"scalar_products": None})
    make_world(made, tmp_path / "world")
    assert read_json(planted / "table.json") == read_json(tiny_world / "planted" / "table.json")


def test_a_made_world_is_left_alone_and_another_refused(tiny_world):
    made = World(**read_json(tiny_world / "world.json"))
    before = (tiny_world / "shards" / "index.json").stat().st_mtime_ns
    make_world(made, tiny_world)
    assert (tiny_world / "shards" / "index.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings"):
        make_world(dataclasses.replace(made, seed=5), tiny_world)


def test_attributes_show_in_the_picture():
    """The mean colour of the middle of plain products follows the planted hue; everything else varies."""
    hues = []
    for number, colour in enumerate(render.COLOURS):
        pictures = [render.render("cushion", colour, "plain", "wide", size=32, seed=seed) for seed in range(8)]
        middle = np.mean([np.asarray(picture)[12:20, 12:20].mean((0, 1)) for picture in pictures], axis=0)
        hue = colorsys.rgb_to_hsv(*(middle / 255))[0]
        hues.append(min(abs(hue - number / 10), 1 - abs(hue - number / 10)))
    assert max(hues) < 0.06
