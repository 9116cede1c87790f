"""Labels made of ratings, and unclicked items drawn for logs of clicks alone."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from prepare_helpers import run, write_log
from scipy.stats import chisquare

from data_tools.common.cli import UserError
from data_tools.dataset.category import with_category
from data_tools.inspection.log import log_facts
from data_tools.reading.item_list import typed
from downstream.report.method import drawn_labels


@pytest.fixture
def rated(source):
    random = np.random.default_rng(5)
    rows = [
        (f"u{u}", f"{i:02}", 1000 + n, s)
        for n, (u, i, s) in enumerate(zip(*random.integers(0, [[5], [20], [11]], (3, 60)), strict=True))
    ]
    write_log(source, [f"{u},{i},{t},{s / 10 * 5}" for u, i, t, s in rows], "user_id,item_id,timestamp,stars")
    return source, rows


def test_ratings_against_a_threshold(rated):
    source, rows = rated
    found = run(source, columns="rating=stars", rating_threshold=3.5)
    assert found.impressions["click"].to_list() == [int(s >= 7) for *_, s in rows]
    assert found.info["labels"]["rating_threshold"] == 3.5


def test_ratings_against_the_users_own_mean(rated):
    source, rows = rated
    found = run(source, columns="rating=stars", rating_threshold="own_mean")
    own = {user: [s for u, *_, s in rows if u == user] for user, *_ in rows}
    means = {user: Fraction(int(sum(values)), len(values)) for user, values in own.items()}
    assert found.impressions["click"].to_list() == [int(s > means[u]) for u, *_, s in rows]


def test_ratings_that_are_no_number_are_set_aside(source):
    write_log(source, ["a,00,1,5", "a,01,2,nan", "a,02,3,good", "a,03,4,"], "user_id,item_id,timestamp,rating")
    found = run(source, rating_threshold=4.0, max_bad_share=0.9)
    assert found.info["set_aside"] == {"rating no number": 2, "rating missing": 1}


@pytest.fixture
def positives(source):
    """600 clicks of 30 users on 20 items, some far more often clicked than others; two categories."""
    random = np.random.default_rng(9)
    items = (20 * random.random(600) ** 2).astype(int)
    users, times = random.integers(0, 30, 600), np.sort(random.choice(10**6, 600, replace=False))
    write_log(
        source, [f"u{u},{i:02},{t}" for u, i, t in zip(users, items, times, strict=True)], "user_id,item_id,timestamp"
    )
    shelf = pl.DataFrame({"item_id": [f"{n:02}" for n in range(20)], "category": [n % 2 for n in range(20)]})
    shelf = shelf.with_columns(product=pl.int_range(20) // 4, aisle=pl.int_range(20) // 10)
    shelf.with_columns(image=pl.lit("00.png")).write_csv(source / "items.csv")
    return source


@pytest.mark.parametrize("how", ["uniform", "popularity", "category", "category_popularity"])
def test_drawn_items_were_not_clicked_and_had_appeared(positives, how):
    dataset = run(positives, unclicked=3, unclicked_from=how, seed=4)
    rows, info = dataset.impressions, dataset.info
    drawn, real = rows.filter("sampled"), rows.filter(~pl.col("sampled"))
    assert len(real) == 600 == info["counts"]["rows_read"] and set(real["click"]) == {1} and set(drawn["click"]) == {0}
    assert len(drawn) == info["counts"]["sampled"] == 1800 - info["labels"]["unclicked_drawn"]["not_found"]
    parts = ["train", "valid", "test"]
    for row in drawn.iter_rows(named=True):
        own = real.filter(user_id=row["user_id"], item_id=row["item_id"])
        later = [one for one in own.iter_rows(named=True) if parts.index(one["split"]) > parts.index(row["split"])]
        assert len(later) == len(own) and all(one["timestamp"] > row["timestamp"] for one in later)
    twice = drawn.join(real, on=["user_id", "item_id"], how="semi")
    assert len(twice), "what the user clicks in a later split may be drawn: leaving it out would tell of that split"
    first = dict(real.group_by("item_id").agg(pl.col("timestamp").min()).iter_rows())
    assert all(first[item] <= time for item, time in drawn.select("item_id", "timestamp").iter_rows())
    assert dict(dataset.items.drop_nulls("first_seen").select("item_id", "first_seen").iter_rows()) == first
    for (_,), view in rows.group_by("request"):
        assert view["click"].sum() == 1 and view["item"].is_unique().all() and view["timestamp"].n_unique() == 1
        if how.startswith("category"):
            assert len(set(dataset.items["category"].gather(view["item"]))) == 1
    full = rows.filter(pl.len().over("request") == 4)
    places = full.with_columns(place=pl.int_range(pl.len()).over("request")).filter(click=1)["place"]
    assert chisquare(np.bincount(places, minlength=4)).pvalue > 1e-3, "the click's slot is random"


def test_look_alikes_of_several_columns_leave_out_the_same_product(positives):
    columns = {"item_columns": "category=category+aisle", "unclicked_unlike": "product"}
    dataset = run(positives, unclicked=2, unclicked_from="category_popularity", **columns)
    items = dataset.items
    assert items["category"].to_list() == [f"{n % 2} / {n // 10}" for n in range(20)]
    drawn = dataset.impressions.filter("sampled").select("request", drawn="item")
    pairs = drawn.join(dataset.impressions.filter(click=1).select("request", "item"), on="request")
    for name, same in (("category", True), ("product", False)):
        assert ((items[name].gather(pairs["drawn"]) == items[name].gather(pairs["item"])) == same).all()
    assert dataset.info["labels"]["unclicked_drawn"]["unlike"] == "product"
    assert "share their product" in drawn_labels(dataset.info)[0]


def test_popularity_within_the_category_is_that_of_clicks_so_far(positives):
    """Against the expectation, draw by draw, from the clicks so far of items that may be drawn."""
    dataset = run(positives, unclicked=1, unclicked_from="category_popularity", seed=3)
    real = dataset.impressions.filter(~pl.col("sampled")).sort("timestamp")
    items, times = real["item"].to_numpy(), real["timestamp"].to_numpy()
    category, most = np.arange(20) % 2, 0
    expected, found = np.zeros(20), np.zeros(20)
    for row in dataset.impressions.filter("sampled").iter_rows(named=True):
        so_far = np.bincount(items[times <= row["timestamp"]], minlength=20) * (category == category[row["item"]])
        own = real.filter(user=row["user"])
        barred = own.filter((pl.col("timestamp") <= row["timestamp"]) | (pl.col("split") == row["split"]))
        barred = (
            set(barred["item"])
            | set(own.filter(split="train")["item"])
            | (set(own.filter(split="valid")["item"]) if row["split"] == "test" else set())
        )
        so_far[list(barred)] = 0
        expected += so_far / so_far.sum()
        found[row["item"]] += 1
    most = expected > 5
    assert chisquare(found[most], expected[most] * found[most].sum() / expected[most].sum()).pvalue > 1e-3


def test_counts_add_up_with_draws_and_items_launched_late(positives):
    dataset = run(positives, unclicked=3, unclicked_from="popularity", new_item_share=0.3)
    counts, rows = dataset.info["counts"], dataset.impressions
    assert counts["rows_of_late_items"] > 0
    assert counts["rows_read"] == counts["rows_set_aside"] + counts["rows_of_late_items"] + counts["clicks"]
    assert counts["impressions"] == counts["clicks"] + counts["sampled"]
    assert rows.group_by("request").agg(pl.col("click").sum())["click"].unique().to_list() == [1]
    clicked, drawn = (rows.filter(split="train", click=click)["item"].unique() for click in (1, 0))
    assert not set(drawn) - set(clicked), "no item is drawn before it is launched"


def test_the_slot_in_the_log_is_left_out_where_items_are_drawn(source):
    write_log(source, ["a,00,1,1", "a,01,2,1", "b,02,3,1"], "user_id,item_id,timestamp,position")
    found = run(source, unclicked=1)
    assert "position" not in found.impressions.columns


def test_draws_follow_the_seed_and_popularity(source):
    """Of users with one click each, 70 % on "00", 20 % on "01", 10 % on "02"."""
    items = np.random.default_rng(1).choice(["00", "01", "02"], 2000, p=[0.7, 0.2, 0.1])
    write_log(source, [f"u{n},{item},{n}" for n, item in enumerate(items)], "user_id,item_id,timestamp")
    settings = {"unclicked": 1, "unclicked_from": "popularity"}
    one, same, other = (run(source, out=f"s{n}", seed=seed, **settings) for n, seed in enumerate((1, 1, 2)))
    assert one.info["fingerprint"] == same.info["fingerprint"] != other.info["fingerprint"]

    def share_of_second(dataset):
        """How many of the draws for a click on "00" are "01"; the others are "02"."""
        views = dataset.impressions.filter(
            pl.col("item_id").filter(pl.col("click") == 1).first().over("request") == "00"
        )
        return (views.filter("sampled")["item_id"] == "01").mean()

    assert share_of_second(one) == pytest.approx(2 / 3, abs=0.06)
    assert share_of_second(run(source, out="alike", unclicked=1)) == pytest.approx(1 / 2, abs=0.06)


def test_draws_that_find_nothing_are_counted_and_reports_say_what_was_drawn(source):
    write_log(source, ["a,00,1", "a,01,2", "b,00,3"], "user_id,item_id,timestamp")
    found = run(source, unclicked=2)
    assert (
        "for each click 2 items were drawn as of its time, from all items clicked so far" in drawn_labels(found.info)[0]
    )
    assert drawn_labels({"labels": {"unclicked_drawn": None}}) == drawn_labels({}) == []
    assert found.info["labels"]["unclicked_drawn"]["not_found"] == 5
    assert found.impressions.filter("sampled").select("user_id", "item_id").rows() == [("b", "01")]


def test_a_log_without_labels_says_what_to_do(source):
    write_log(source, ["a,00,1"], "user_id,item_id,timestamp")
    with pytest.raises(UserError, match="--unclicked 4"):
        run(source)
    write_log(source, ["a,00,1,0"])
    with pytest.raises(UserError, match="has unclicked impressions itself"):
        run(source, unclicked=1)
    write_log(source, ["a,00,1,1"])
    with pytest.raises(UserError, match="needs a column category"):
        run(source, unclicked=1, unclicked_from="category")
    with pytest.raises(UserError, match=r"--unclicked-unlike colour is not a column.*price"):
        run(source, unclicked=1, unclicked_unlike="colour")
    with pytest.raises(UserError, match="do nothing without --unclicked"):
        run(source, unclicked_from="popularity")
    with pytest.raises(UserError, match=r"no column 'prize'.*nearest is 'price'"):
        run(source, unclicked=1, item_columns="category=prize+image")


@pytest.fixture
def baskets(source):
    """100 users with a basket of 1 to 5 items on each of three days, its rows in the order of the items."""
    random = np.random.default_rng(2)
    rows = []
    for day in range(3):
        for user in range(100):
            held = np.sort(random.choice(20, random.integers(1, 6), replace=False))
            rows += [f"u{user},{item:02},{1_600_041_600 + 86_400 * day}" for item in held]
    write_log(source, rows, "user_id,item_id,timestamp")
    return source


def histories_of(dataset):
    """Of each click: its user, time, item and history, as the format says they are read."""
    lists = dict(dataset.clicks.select("user", "items").iter_rows())
    for row in dataset.impressions.filter(click=1).iter_rows(named=True):
        yield row["user"], row["timestamp"], row["item"], lists[row["user"]][: row["clicks_before"]]


def bought(dataset):
    """(user, day) -> items, and user -> items of earlier days, from the lists of clicks."""
    held = {}
    for user, items, times in dataset.clicks.select("user", "items", "timestamps").iter_rows():
        for item, time in zip(items, times, strict=True):
            held.setdefault((user, time), []).append(item)
    return held


def test_a_basket_is_completed_from_its_other_items(baskets):
    dataset = run(baskets, unclicked=2, same_time_history="leave_one_out", seed=1)
    held, shown, places = bought(dataset), {}, []
    for user, time, item, history in histories_of(dataset):
        earlier = [one for (who, when), items in sorted(held.items()) if who == user and when < time for one in items]
        others = [one for one in held[user, time] if one != item]
        assert sorted(history) == sorted(earlier + others) and item not in history[len(earlier) :]
        shown[user, time] = item
        if len(others) == 4:
            places.append(sorted(held[user, time]).index(item))
    assert shown.keys() == held.keys(), "one item of every basket"
    assert chisquare(np.bincount(places, minlength=5)).pvalue > 1e-3, "which one is drawn"
    counts = dataset.info["counts"]
    assert counts["rows_read"] == counts["clicks"] + counts["rows_as_history_only"] == sum(map(len, held.values()))
    assert log_facts(dataset)["future_clicks"] == 0


def test_items_of_a_basket_come_one_after_the_other(baskets):
    dataset = run(baskets, unclicked=2, same_time_history="before", new_item_share=0.1)
    lengths, held = {}, bought(dataset)
    for user, time, item, history in histories_of(dataset):
        earlier = sum(len(items) for (who, when), items in held.items() if who == user and when < time)
        assert set(history[earlier:]) < set(held[user, time]) - {item} | {None}
        lengths.setdefault((user, time), []).append(len(history))
    for key, found in lengths.items():
        assert sorted(found) == list(range(min(found), min(found) + len(held[key])))
    counts = dataset.info["counts"]
    assert counts["rows_read"] == counts["clicks"] + counts["rows_of_late_items"]
    strict = run(baskets, out="strict", unclicked=2)
    assert set(strict.impressions.filter(timestamp=1600041600)["clicks_before"]) == {0}


def test_baskets_need_drawn_items(baskets):
    with pytest.raises(UserError, match="same_time_history is for logs of clicks alone"):
        run(baskets, same_time_history="before")


def test_a_category_of_several_columns_keeps_codes_and_gaps():
    items = pl.DataFrame({"Category_": ["a", None, None], "code": ["000", "0", None]})
    found = with_category(items, "Category+code", {}, "items.csv")
    assert found["category"].to_list() == ["a / 000", " / 0", None]
    assert typed(items, set())["code"].to_list() == ["000", "0", None]
    assert typed(pl.DataFrame({"size": ["10", "0", "-1"]}), set())["size"].to_list() == [10, 0, -1]
