"""What a table says of users, as codes and as inputs of every model."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch

import downstream.serving
from data_tools.common.cli import progress_bar
from data_tools.common.errors import UserError
from data_tools.dataset.schema import open_dataset
from downstream.data.codes import FIRST_KNOWN, UNKNOWN
from downstream.data.ctr_data import load_ctr_data, mask_ids
from downstream.data.tensors import tensors
from downstream.models.build import build_model
from downstream.models.registry import MODELS
from downstream.settings import DataSettings, OptimSettings
from downstream.training.fit import fit
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings

NAMES = ["user:age", "user:country", "user:a_b"]


@pytest.fixture(scope="module")
def users(small_world):
    """Ages of many values, some missing; countries, one of them only of users that training does not show."""
    count = len(open_dataset(small_world.folder).clicks)
    rng = np.random.default_rng(0)
    age = [None if one % 11 == 0 else float(value) for one, value in enumerate(rng.permutation(count) + 15)]
    country = [None if one % 7 == 0 else ["de", "fr", "it"][one % 3] for one in range(count)]
    return pl.DataFrame(
        {"user": pl.int_range(count, dtype=pl.Int32, eager=True), "age": age, "country": country, "a.b": [True] * count}
    )


@pytest.fixture(scope="module")
def folder(small_world, users, tmp_path_factory):
    folder = tmp_path_factory.mktemp("users") / "dataset"
    shutil.copytree(small_world.folder, folder, ignore=shutil.ignore_patterns(".arrays"))
    # Training shows all users but the first five.
    impressions = pl.read_parquet(folder / "impressions.parquet")
    late = (pl.col("user") < 5) & (pl.col("split") == "train")
    impressions.with_columns(split=pl.when(late).then(pl.lit("test")).otherwise("split")).write_parquet(
        folder / "impressions.parquet"
    )
    users = users.with_columns(country=pl.when(pl.col("user") == 1).then(pl.lit("xx")).otherwise("country"))
    users.with_columns(user_id=pl.format("u{}", "user")).write_parquet(folder / "users.parquet")
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return load_ctr_data(folder, DataSettings(history=6))


def test_categories_are_those_of_users_in_training(data, folder):
    users = pl.read_parquet(folder / "users.parquet")
    assert [name for name in data.sizes if name.startswith("user:")] == NAMES
    codes = {None: UNKNOWN, "xx": UNKNOWN, "de": FIRST_KNOWN, "fr": FIRST_KNOWN + 1, "it": FIRST_KNOWN + 2}
    assert data.user_features[:, 1].tolist() == [codes[one] for one in users["country"]]
    assert [data.sizes[name] for name in NAMES[1:]] == [FIRST_KNOWN + 3, FIRST_KNOWN + 1]
    named = pl.read_parquet(data.vocabulary).filter(feature="user:country")
    assert dict(named.select("id", "code").iter_rows()) == {name: code for name, code in codes.items() if code > 1}


def test_numbers_of_many_values_are_put_into_full_bins_in_order(data, folder):
    ages = pl.read_parquet(folder / "users.parquet")["age"]
    codes = data.user_features[:, 0]
    known = ages.is_not_null().to_numpy()
    assert (codes[~known] == UNKNOWN).all() and data.sizes["user:age"] == FIRST_KNOWN + 10
    order = np.argsort(ages.to_numpy()[known])
    assert (np.diff(codes[known][order]) >= 0).all()
    trained = known & (np.arange(len(ages)) >= 5)
    counts = np.bincount(codes[trained], minlength=12)[FIRST_KNOWN:]
    assert len(counts) == 10 and counts.max() - counts.min() <= 1


def test_batches_hold_the_codes_of_each_impressions_user(data):
    rows = np.random.default_rng(1).permutation(len(data.click))[:60]
    batch = data.batch(rows)
    for place, name in enumerate(NAMES):
        assert batch[name].tolist() == data.user_features[data.user[rows], place].tolist()
    masked = mask_ids(batch, 0.5, np.random.default_rng(0))
    assert 0.2 < (masked["user:country"] != batch["user:country"]).mean() < 0.8
    for name in ("user", "item"):  # drawn first: a table of users changes nothing of these
        plain = {key: value for key, value in batch.items() if key not in NAMES}
        assert np.array_equal(masked[name], mask_ids(plain, 0.5, np.random.default_rng(0))[name])


# DSSM has no IDs; the other ones need scenes or conversions.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"dssm", "scene_networks", "star", "esmm", "esmm_transfer"}))
def test_every_model_with_ids_looks_at_them(data, name):
    torch.manual_seed(0)
    model = build_model(data, None, ModelSettings(name), ImageSettings()).eval()
    with torch.no_grad():
        for embedding in model.ids.values():
            embedding.weight.normal_()
    batch = tensors(data.batch(data.rows["test"][:20]))
    with torch.no_grad():
        before = model(batch)
        after = model({**batch, "user:age": torch.full_like(batch["user:age"], FIRST_KNOWN + 3)})
    assert (before - after).abs().max() > 1e-4


def test_l2_counts_their_codes(data):
    occurrences = data.occurrences()
    shown = data.user[data.rows["train"]]
    for place, name in enumerate(NAMES):
        wanted = np.bincount(data.user_features[shown, place], minlength=data.sizes[name])
        assert occurrences[name].tolist() == wanted.tolist()
    model = build_model(data, None, ModelSettings("din", l2=0.1), ImageSettings())
    assert model.penalised_loss(tensors(data.batch(data.rows["train"][:20]))).isfinite()


def test_what_is_known_of_users_improves_scores_of_new_users(world, tmp_path):
    """Users click along one of two tastes, which the table names; users new in the test split have no ID."""
    scores = {}
    planted = world.table.vectors
    for named in (False, True):
        folder = tmp_path / str(named)
        shutil.copytree(world.folder, folder, ignore=shutil.ignore_patterns(".arrays"))
        log = pl.read_parquet(folder / "impressions.parquet")
        log = log.with_columns(split=pl.when(pl.col("user") % 4 == 0).then(pl.lit("test")).otherwise("split"))
        log.filter((pl.col("user") % 4 == 0) | (pl.col("split") != "test")).write_parquet(
            folder / "impressions.parquet"
        )
        if named:
            shown = planted[log["item"].to_numpy()] * (2.0 * log["click"].to_numpy() - 1)[:, None]
            means = pl.DataFrame({"user": log["user"], "along": shown[:, 0]}).group_by("user").agg(pl.mean("along"))
            users = (
                pl.read_parquet(folder / "clicks.parquet").select("user", "user_id").join(means, on="user", how="left")
            )
            users.with_columns(taste=pl.col("along") > 0).drop("along").write_parquet(folder / "users.parquet")
        data = load_ctr_data(folder, DataSettings(history=1))
        settings = TrainingSettings(
            data.settings, ModelSettings("dicm"), optim=OptimSettings(lr=5e-3, batch_size=128, epochs=3)
        )
        scores[named] = fit(data, None, settings, 0).metrics["test"]["all"]["auc"]
    assert scores[True] > scores[False] + 0.01


@pytest.fixture(scope="module")
def run(tiny_world, tmp_path_factory):
    """A run whose dataset says two things of users."""
    home = tmp_path_factory.mktemp("scored")
    folder = home / "dataset"
    shutil.copytree(tiny_world / "dataset", folder, ignore=shutil.ignore_patterns(".arrays", "images"))
    users = pl.read_parquet(folder / "clicks.parquet").select("user", "user_id")
    users.with_columns(odd=pl.col("user") % 2, age=pl.col("user") * 3 % 50).write_parquet(folder / "users.parquet")
    settings = RunSettings(
        DataSettings(history=6), optim=OptimSettings(batch_size=64), dataset=str(folder), out=str(home / "run")
    )
    with progress_bar(shown=False) as progress:
        train(settings, progress)
    return home / "run"


def scored(run, log, folder, **options):
    log.write_csv(folder / "log.csv")
    downstream.serving.load(run).score(folder / "log.csv", folder / "scores.parquet", **options)
    return pl.read_parquet(folder / "scores.parquet")["score"].to_numpy()


def rows_of(run):
    """The test rows of the dataset, by the names of a log."""
    log = open_dataset(run.parent / "dataset").impressions.filter(pl.col("split") == "test")
    return log.select("user_id", "item_id", "timestamp", "click", "scene")


def test_a_scored_log_has_the_scores_of_the_training(run, tmp_path):
    assert load_run(run)[1].user_features.shape[1] == 2
    np.testing.assert_allclose(scored(run, rows_of(run), tmp_path), np.load(run / "test_scores.npy"), atol=1e-6)


def test_a_new_user_is_scored_by_what_a_table_says(run, tmp_path):
    """Two strangers with the same rows: each as the model scores the codes of what is said of them."""
    rows = rows_of(run).drop("click").head(4)
    strangers = pl.concat([rows.with_columns(user_id=pl.lit(name)) for name in ("s1", "s2", "s3")])
    known = pl.DataFrame({"player": ["s1", "s2", "s2"], "age": [3, 48, 0], "odd": [1, 0, 0], "more": ["x", "y", "z"]})
    known.write_csv(tmp_path / "users.csv")
    given = {"user_table": tmp_path / "users.csv", "user_columns": "user_id=player"}
    scores = scored(run, strangers, tmp_path, **given).reshape(3, 4)
    model, data, _ = load_run(run)
    ages = pl.read_parquet(run.parent / "dataset" / "users.parquet")
    batch = tensors(data.batch(data.rows["test"][:4]))
    batch |= {"user": torch.full((4,), UNKNOWN), "mask": torch.zeros_like(batch["mask"])}
    for place, age in enumerate((3, 48, None)):
        codes = [UNKNOWN, UNKNOWN] if age is None else data.user_features[ages["age"].to_list().index(age)].tolist()
        if age is not None:
            codes[0] = data.user_features[ages["odd"].to_list().index((1, 0)[place]), 0]
        own = {name: torch.full((4,), int(code)) for name, code in zip(("user:odd", "user:age"), codes, strict=True)}
        with torch.inference_mode():
            wanted = model.probabilities({**batch, **own})["click"].numpy()
        np.testing.assert_allclose(scores[place], wanted, atol=1e-6)
    assert np.abs(scores[0] - scores[1]).max() > 1e-5


def test_numbers_in_a_file_are_the_text_of_the_training(tiny_world, tmp_path):
    """A file that happens to hold numbers alone in a column of segments such as 007 and A1."""
    folder = tmp_path / "dataset"
    shutil.copytree(tiny_world / "dataset", folder, ignore=shutil.ignore_patterns(".arrays", "images"))
    users = pl.read_parquet(folder / "clicks.parquet").select("user", "user_id")
    segments = pl.when(pl.col("user") % 2 == 0).then(pl.lit("007")).otherwise(pl.lit("A1"))
    users.with_columns(segment=segments).write_parquet(folder / "users.parquet")
    settings = RunSettings(
        DataSettings(history=6), optim=OptimSettings(batch_size=64), dataset=str(folder), out=str(tmp_path / "run")
    )
    with progress_bar(shown=False) as progress:
        train(settings, progress)
    rows = rows_of(tmp_path / "run").drop("click").head(4)
    pl.concat([rows.with_columns(user_id=pl.lit(name)) for name in "abc"]).write_csv(tmp_path / "log.csv")
    scorer, scores = downstream.serving.load(tmp_path / "run"), {}
    for name, text in {"numbers": "a,007\nb,7\nz,5\n", "mixed": "a,007\nb,7\nzz,A1\n"}.items():
        (tmp_path / "users.csv").write_text(f"user_id,segment\n{text}")
        found = scorer.score(tmp_path / "log.csv", tmp_path / f"{name}.parquet", user_table=tmp_path / "users.csv")
        assert "segment: 1 of 2 new users have a value unknown to the run, such as '7'" in found.notes
        scores[name] = pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_numpy().reshape(3, 4)
    assert np.array_equal(scores["numbers"][:2], scores["mixed"][:2])
    assert np.abs(scores["numbers"][0] - scores["numbers"][1]).max() > 1e-5


def test_a_table_of_users_of_no_use_is_refused(run, tmp_path):
    pl.DataFrame({"user_id": ["s1"], "height": [3]}).write_csv(tmp_path / "users.csv")
    log = rows_of(run)
    with pytest.raises(UserError, match=r"says \['height'\] of them, but the run was trained on \['odd', 'age'\]"):
        scored(run, log, tmp_path, user_table=tmp_path / "users.csv")
    with pytest.raises(UserError, match="but there is no table: remove them"):
        scored(run, log, tmp_path, user_columns="user_id=player")
    assert not (tmp_path / "scores.parquet").exists()


def test_a_run_without_a_table_of_users_refuses_one(tiny_world, tmp_path):
    settings = RunSettings(
        DataSettings(history=6),
        optim=OptimSettings(batch_size=256),
        dataset=str(tiny_world / "dataset"),
        out=str(tmp_path / "run"),
    )
    with progress_bar(shown=False) as progress:
        train(settings, progress)
    with pytest.raises(UserError, match="knows nothing of users but their ids"):
        downstream.serving.load(tmp_path / "run").score("log.csv", tmp_path / "out.parquet", user_table="users.csv")
