"""Searched histories against a loop in float64: the most similar clicks of a user, in training and in serving."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import downstream.serving
from data_tools.common.cli import progress_bar
from data_tools.common.errors import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.tables.table import EmbeddingTable, write_table
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.images.joined import join_table, search_histories
from downstream.settings import DataSettings, OptimSettings, ServerSettings
from downstream.studies.transfer import TransferSettings
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import ImageSettings, ModelSettings, TrainingDefaults, TrainingSettings

SLOTS, REACH = 3, 9
SEARCH = DataSettings(history=SLOTS, history_by="similarity", history_search=REACH)


@pytest.fixture(scope="module")
def lacking(world):
    """The planted table without a fifth of the items, and with one vector of zeros."""
    kept = [place for place in range(len(world.table.ids)) if place % 5]
    vectors = 7 * world.table.vectors[kept]  # of any length: cosines do not know it
    vectors[3] = 0
    return EmbeddingTable([world.table.ids[place] for place in kept], vectors)


def searching(world, table, settings=SEARCH) -> CTRData:
    data = load_ctr_data(world.folder, settings)
    return search_histories(data, join_table(table, data))


def by_loop(clicks: list[int], shown: int, vectors: dict[int, np.ndarray]) -> list[int]:
    """The most similar of the latest clicks, the latest first; those without a vector last."""
    latest = clicks[::-1][:REACH]

    def cosine(item: int) -> float:
        a, b = vectors.get(item), vectors.get(shown)
        if a is None or b is None or not a.any() or not b.any():
            return -np.inf
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    # Sorting is stable, so that what cannot be compared is taken in the order of time.
    kept = sorted(range(len(latest)), key=lambda place: -cosine(latest[place]))[:SLOTS]
    return [latest[place] for place in sorted(kept)]


def test_histories_are_the_most_similar_clicks_of_a_loop(world, lacking):
    data = searching(world, lacking)
    row_of = {name: row for row, name in enumerate(data.item_ids)}
    vectors = {row_of[name]: lacking.vectors[place].astype(np.float64) for place, name in enumerate(lacking.ids)}
    clicks = data.dataset.clicks["items"].to_list()
    rows = np.random.default_rng(0).permutation(len(data.click))[:1500]
    batch, recent = data.batch(rows), replace(data, search=None).batch(rows)
    assert np.array_equal(batch["mask"], recent["mask"]) and np.array_equal(batch["row"], np.unique(batch["row"]))
    other = 0
    for place, row in enumerate(rows):
        history = batch["row"][batch["history"][place][batch["mask"][place]]].tolist()
        before = clicks[data.user[row]][: data.clicks_before[row]]
        assert history == by_loop(before, int(data.item[row]), vectors)
        assert batch["row"][batch["target"][place]] == data.item[row]
        other += history != before[::-1][:SLOTS]
    assert other > 300  # or nothing was searched


def test_rows_share_a_context_where_the_shown_item_is_the_same(world, lacking):
    data = searching(world, lacking)
    batch = data.batch(data.rows["test"])
    assert 1 < len(batch["first"]) < len(batch["user"])
    for name in ("history", "mask", "user"):
        assert np.array_equal(batch[name][batch["first"]][batch["context"]], batch[name])


def test_ten_thousand_clicks_are_searched(world):
    """A user whose only similar clicks lie thousands of clicks back."""
    data, items = load_ctr_data(world.folder, SEARCH), len(world.table.ids)
    vectors = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (items, 1))
    vectors[:2] = [[1, 0], [1, 0.01]]
    clicked = np.full(10_000, 5, dtype=np.int32)
    clicked[[17, 4000, 9000]] = 1
    long = replace(
        data,
        settings=replace(SEARCH, history_search=10_000),
        user=np.zeros(1, dtype=np.int32),
        item=np.zeros(1, dtype=np.int32),
        click=np.zeros(1, dtype=np.float32),
        clicks_before=np.array([10_000], dtype=np.int32),
        scene=None,
        clicked=clicked,
        offsets=np.array([0, 10_000]),
    )
    images = join_table(EmbeddingTable(world.table.ids, vectors), data)
    batch = search_histories(long, images).batch(np.array([0]))
    assert batch["row"][batch["history"][0]].tolist() == [1, 1, 1]
    near = replace(long, settings=replace(long.settings, history_search=6000))
    batch = search_histories(near, images).batch(np.array([0]))
    assert sorted(batch["row"][batch["history"][0]].tolist()) == [1, 1, 5]


def test_recency_and_ids_alone_stay_as_they_are(world):
    data = load_ctr_data(world.folder, DataSettings(history=SLOTS))
    assert search_histories(data, join_table(world.table, data)) is data
    assert search_histories(load_ctr_data(world.folder, SEARCH), None).search is None


@pytest.mark.parametrize("model", ["dicm", "mlr"])
def test_a_run_that_searches_scores_a_log_as_it_scored_its_test_split(tiny_world, tmp_path, model):
    table = tmp_path / "table"
    names = open_dataset(tiny_world / "dataset").items["item_id"].to_list()
    write_table(table, names, np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32), {})
    settings = RunSettings(
        SEARCH,
        ModelSettings(model),
        ImageSettings(),
        OptimSettings(batch_size=64, by_context=True),
        dataset=str(tiny_world / "dataset"),
        out=str(tmp_path / "run"),
        table=str(table),
    )
    with progress_bar(shown=False) as progress:
        wanted = train(settings, progress).test_scores
        recent = replace(settings, data=DataSettings(history=SLOTS), out=str(tmp_path / "recent"))
        assert np.abs(train(recent, progress).test_scores - wanted).max() > 1e-4
    data = load_run(tmp_path / "run")[1]
    assert data.search.reach == REACH
    rows = data.dataset.impressions.filter(pl.col("split") == "test")
    rows.select("user_id", "item_id", "timestamp", "click", "scene").write_csv(tmp_path / "log.csv")
    downstream.serving.load(tmp_path / "run").score(tmp_path / "log.csv", tmp_path / "scores.parquet")
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DataSettings(history_search=100), "history_search is 100, but history_by is 'recency'"),
        (lambda: replace(SEARCH, history=10), "history_search is 9, fewer clicks than the 10 of history"),
        (lambda: DataSettings(history_by="nearest"), "history_by"),
        (lambda: TrainingSettings(SEARCH, ModelSettings("dqm")), "model 'dqm' knows users apart from items"),
        (
            lambda: TrainingSettings(SEARCH, server=ServerSettings("ams")),
            "server.strategy is 'ams', which serves embeddings of a feature store",
        ),
        (lambda: RunSettings(SEARCH, dataset="d", out="o"), "there is no --table TABLE"),
        (
            lambda: TransferSettings(out="o", dataset="d", training=TrainingDefaults(SEARCH)),
            "training.data.history_by is 'similarity', which compares vectors; name a table",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
