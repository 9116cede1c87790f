"""Scoring a new log: the training's own scores come out again, histories grow with the log, bad input is named."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

import downstream.serving
from data_tools.common.cli import progress_bar, run_command
from data_tools.common.errors import UserError
from data_tools.common.files import digest, read_json, write_json
from data_tools.dataset.schema import open_dataset
from data_tools.sharding.files import read_index
from data_tools.tables.table import read_table, write_table
from downstream.data.tensors import tensors
from downstream.score import main, show
from downstream.serving import ScoreSettings
from downstream.serving.catalogue import with_new_images
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.metrics import all_metrics
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import ImageSettings, ModelSettings

NAMED = "user_id=player,item_id=game,timestamp=time,click=liked"
UNLABELLED = "user_id=player,item_id=game,timestamp=time"
MINE = {"user_id": "player", "item_id": "game", "timestamp": "time", "click": "liked"}


def trained(dataset, out, table, model=None, image=None):
    settings = RunSettings(
        DataSettings(history=8),
        model or ModelSettings(),
        image or ImageSettings(),
        OptimSettings(batch_size=64),
        dataset=str(dataset),
        out=str(out),
        table=str(table) if table else None,
    )
    with progress_bar(shown=False) as progress:
        train(settings, progress)
    return out


@pytest.fixture(scope="module")
def table(tiny_world, tmp_path_factory):
    """The planted table without the vectors of ten items."""
    planted, out = read_table(tiny_world / "planted"), tmp_path_factory.mktemp("table") / "table"
    write_table(out, planted.ids[10:], planted.vectors[10:], {"encoder": {"name": "planted"}})
    return out


@pytest.fixture(scope="module")
def run(tiny_world, table, tmp_path_factory):
    return trained(tiny_world / "dataset", tmp_path_factory.mktemp("runs") / "dicm", table)


@pytest.fixture(scope="module")
def test_rows(tiny_world):
    """The dataset's test rows with names of a user's own."""
    rows = open_dataset(tiny_world / "dataset").impressions.filter(pl.col("split") == "test")
    keep = [*MINE, *({"scene"} & set(rows.columns))]
    return rows.select(keep).rename(MINE)


def scored(run, rows, folder, **options):
    rows.write_csv(folder / "log.csv")
    found = downstream.serving.load(run).score(
        folder / "log.csv", folder / "scores.parquet", **{"columns": NAMED, **options}
    )
    return found, pl.read_parquet(folder / "scores.parquet")


FORMS = [
    (ModelSettings(), ImageSettings()),
    (ModelSettings("din", l2=0.01), ImageSettings("simtier", centre=True)),
    (ModelSettings("dicm"), ImageSettings("cluster_id")),
    (ModelSettings("dicm"), ImageSettings(tune="table")),
    (ModelSettings("logistic"), None),
]


@pytest.mark.parametrize(("model", "image"), FORMS, ids=lambda one: getattr(one, "name", getattr(one, "form", "")))
@pytest.mark.parametrize("labelled", [True, False])
def test_the_scores_of_the_training_come_out_again(tiny_world, table, test_rows, tmp_path, model, image, labelled):
    run = trained(tiny_world / "dataset", tmp_path / "run", table if image else None, model, image)
    columns, rows = (NAMED, test_rows) if labelled else (UNLABELLED, test_rows.drop("liked"))
    found, scores = scored(run, rows, tmp_path, columns=columns)
    wanted = np.load(run / "test_scores.npy")
    np.testing.assert_allclose(scores["score"].to_numpy(), wanted, atol=1e-6)
    assert np.ptp(wanted) > 0.01
    assert found.rows == found.scored == len(test_rows) and not found.faults
    if labelled:
        own = read_json(run / "summary.json")["metrics"]["test"]["all"]
        assert found.metrics == pytest.approx(own, abs=1e-6)
    else:
        assert found.metrics is None and "click" not in scores.columns


def home(run):
    """Code of the scene "home"."""
    return int(pl.read_parquet(run / "vocabulary.parquet").filter(feature="scene", id="home")["code"][0])


def day_seven(tiny_world, rows):
    """Rows a day after the dataset ends: (user, item, click), a minute apart."""
    start = open_dataset(tiny_world / "dataset").info["time_range"][1] + 86_400
    made = {name: [row[place] for row in rows] for place, name in enumerate(("player", "game", "liked"))}
    return pl.DataFrame(made | {"time": [start + 60 * place for place in range(len(rows))], "scene": "home"})


def test_a_history_is_the_clicks_of_the_dataset_and_the_earlier_ones_of_the_log(tiny_world, run, tmp_path):
    """The last score, by a batch that is put together by hand from the user's clicks."""
    model, data, _ = load_run(run)
    dataset = open_dataset(tiny_world / "dataset")
    user = dataset.clicks.filter(pl.col("items").list.len() > 2).row(0, named=True)
    ids, fresh = dataset.items["item_id"].to_list(), np.flatnonzero(data.warm)[:4]
    log = [(user["user_id"], ids[row], click) for row, click in zip(fresh, (1, 0, 1, 0), strict=True)]
    _, scores = scored(run, day_seven(tiny_world, log), tmp_path)
    history = [*user["items"], fresh[0], fresh[2]][-8:][::-1]
    by_hand = replace(
        data,
        click=np.zeros(1, dtype=np.float32),
        user=np.array([user["user"]]),
        item=fresh[3:],
        clicks_before=np.array([len(history)]),
        scene=np.array([home(run)]),
        conversion=None,
        clicked=np.array(history[::-1], dtype=np.int32),
        offsets=np.zeros(len(data.user_code) + 1, dtype=np.int64),
    )
    batch = by_hand.batch(np.array([0]))
    assert [batch["row"][place] for place in batch["history"][0][: len(history)]] == history
    with torch.inference_mode():
        wanted = model.probabilities(tensors(batch))["click"].item()
    assert scores["score"][3] == pytest.approx(wanted, abs=1e-6)
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    _, without = scored(run, day_seven(tiny_world, log).drop("liked"), unlabelled, columns=UNLABELLED)
    assert abs(without["score"][3] - wanted) > 1e-5  # its clicks are part of the history only where they are known


def test_new_users_and_items_are_counted_and_scored_through_vectors(tiny_world, run, table, tmp_path):
    """A new item with the vector of another is scored as that one would be without an ID; one without gets no image."""
    model, data, _ = load_run(run)
    own = read_table(table)
    twin = next(item for item in own.ids if data.warm[data.item_ids.index(item)])
    info = {"encoder": {"name": "planted"}}
    write_table(tmp_path / "new", ["n1", "n2"], np.stack([own.vectors[own.ids.index(twin)]] * 2), info)
    log = day_seven(tiny_world, [("stranger", item, 0) for item in ("n1", "n2", "n3", twin)])
    found, scores = scored(run, log, tmp_path, table=tmp_path / "new")
    assert (found.users, found.new_users, found.items, found.new_items) == (1, 1, 4, 3)
    assert found.items_without_vector == 1 and scores["has_vector"].to_list() == [True, True, False, True]
    assert scores["known_item"].to_list() == [False, False, False, True] and not scores["known_user"].any()
    one, two, three, _ = scores["score"]
    assert one == pytest.approx(two, abs=1e-7) and abs(one - three) > 1e-5
    with torch.inference_mode():
        embed = model.images.embed
        vector = torch.from_numpy(own.vectors[own.ids.index(twin)])
        embed.no_image.copy_(embed.layers((vector - embed.centre) / embed.scale))
        batch = {name: torch.tensor([1]) for name in ("user", "item", "category")}
        batch |= {"click": torch.zeros(1), "target": torch.tensor([0]), "history": torch.zeros(1, 8, dtype=torch.int64)}
        batch |= {"mask": torch.zeros(1, 8, dtype=torch.bool), "context": torch.tensor([0]), "first": torch.tensor([0])}
        batch |= {
            "row": torch.tensor([0]),
            "words": torch.zeros(1, 16, dtype=torch.int64),
            "scene": torch.tensor([home(run)]),
        }
        embed.features.found[0] = False
        assert model.probabilities(batch)["click"].item() == pytest.approx(one, abs=1e-6)


def test_vectors_given_later_move_no_others(tiny_world, run, table):
    """Forms are fitted to the vectors that were there in training."""
    scorer = downstream.serving.load(run)
    warm = np.flatnonzero(scorer.data.warm)
    found = scorer.images.found.copy()
    found[warm[:9]] = False
    lacking = replace(scorer.images, found=found)
    more = with_new_images(lacking, scorer.data.item_ids, ["new"], read_table(tiny_world / "planted"))
    assert more.found[warm[:9]].all() and not lacking.found[warm[:9]].any()
    assert np.array_equal(more.fitted, lacking.fitted)


def test_rows_that_cannot_be_scored_keep_their_place(tiny_world, run, test_rows, tmp_path):
    rows = test_rows.with_columns(pl.col("time").cast(pl.String))
    broken = rows.with_row_index().with_columns(
        time=pl.when(pl.col("index") == 2).then(pl.lit("noon")).otherwise("time"),
        player=pl.when(pl.col("index") == 5).then(pl.lit("")).otherwise("player"),
        liked=pl.when(pl.col("index") == 7).then(pl.lit("2")).otherwise(pl.col("liked").cast(pl.String)),
    )
    found, scores = scored(run, broken.drop("index"), tmp_path)
    reasons = {"timestamp missing or unreadable": 1, "user_id missing": 1, "click not 0 or 1": 1}
    assert found.faults == reasons and found.rows == len(rows) and found.scored == len(rows) - 2
    assert scores["score"].is_null().arg_true().to_list() == [2, 5] and scores["click"][7] is None
    assert scores["fault"][2] == "timestamp missing or unreadable" and scores["fault"][7] is None
    wanted = np.load(run / "test_scores.npy")
    np.testing.assert_allclose(scores["score"][0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(scores["score"][7], wanted[7], atol=1e-6)


def test_parquet_and_small_pieces_give_the_same_scores(run, test_rows, tmp_path, monkeypatch):
    _, whole = scored(run, test_rows, tmp_path)
    monkeypatch.setattr("downstream.serving.scorer.PIECE", 100)
    test_rows.write_parquet(tmp_path / "log.parquet")
    scorer = downstream.serving.load(run)
    settings = ScoreSettings(batch_size=7)
    scorer.score(tmp_path / "log.parquet", tmp_path / "pieces.parquet", columns=NAMED, settings=settings)
    pieces = pl.read_parquet(tmp_path / "pieces.parquet")
    np.testing.assert_allclose(pieces["score"], whole["score"], atol=1e-6)
    assert pieces.drop("score").equals(whole.drop("score"))


def test_metrics_are_those_of_numpy(run, test_rows, tmp_path):
    """Also where scores are tied, users have one label only, and some rows have none."""
    rng = np.random.default_rng(0)
    rows = pl.concat([test_rows] * 3).with_columns(
        game=pl.Series(rng.choice(test_rows["game"].unique().sort().to_numpy()[:6], 3 * len(test_rows))),
        liked=pl.Series(rng.integers(3, size=3 * len(test_rows))).replace(2, None),
    )
    found, scores = scored(run, rows, tmp_path)
    known = scores.filter(pl.col("click").is_not_null())
    wanted = all_metrics(known["click"].to_numpy(), known["score"].to_numpy(), known["user_id"].to_numpy())
    assert found.metrics == pytest.approx(wanted, abs=1e-9)


def refused(run, rows, folder, match, **options):
    with pytest.raises(UserError, match=match):
        scored(run, rows, folder, **options)
    assert not [path for path in folder.iterdir() if "scores" in path.name]


def test_bad_input_is_one_clear_message_and_nothing_is_written(tiny_world, run, test_rows, tmp_path):
    rows = test_rows.with_columns(pl.col("liked").cast(pl.String).replace({"0": "seen", "1": "bought"}))
    refused(run, rows, tmp_path, r"click not 0 or 1: 488\n(.*\n)*.*--click-values", columns=NAMED)
    refused(run, test_rows.drop("time"), tmp_path, "has no column 'time'")
    refused(run, test_rows, tmp_path, "has no column 'timestamp'", columns="user_id=player,item_id=game")
    refused(run, test_rows.rename({"scene": "place"}), tmp_path, "has no column 'scene'")
    refused(run, test_rows, tmp_path, "nearest is 'user_id'", columns="user=player")
    write_table(tmp_path / "wide", ["n1"], np.ones((1, 3), dtype=np.float32), {})
    refused(run, test_rows, tmp_path, "vectors of size 3, but the run was trained on", table=tmp_path / "wide")
    size = read_table(tiny_world / "planted").vectors.shape[1]
    write_table(tmp_path / "other", ["n1"], np.ones((1, size), dtype=np.float32), {"encoder": {"name": "another"}})
    refused(run, test_rows, tmp_path, "another table than the run was trained on", table=tmp_path / "other")
    found, _ = scored(run, rows, tmp_path, settings=ScoreSettings(click_values="bought"))
    assert found.metrics == pytest.approx(read_json(run / "summary.json")["metrics"]["test"]["all"], abs=1e-6)
    with pytest.raises(UserError, match="exists already"):
        scored(run, test_rows, tmp_path)
    for name in ("scores.csv", "scores.xlsx", "scores"):
        with pytest.raises(UserError, match=r"scores are written as Parquet; name a file that ends in \.parquet"):
            downstream.serving.load(run).score(tmp_path / "log.csv", tmp_path / name)


def test_scenes_that_the_run_does_not_know_are_counted(run, test_rows, tmp_path):
    rows = test_rows.with_row_index().with_columns(
        scene=pl.when(pl.col("index") < 3).then(pl.lit("moon")).when(pl.col("index") == 3).then(None).otherwise("scene")
    )
    found, _ = scored(run, rows.drop("index"), tmp_path)
    assert found.new_scenes == {"moon": 3} and found.scored == len(rows)
    show(found, console := Console(record=True, width=200))
    assert "3 rows have a scene unknown to the run, such as 'moon': scored without a scene" in console.export_text()


def test_scenes_that_a_file_holds_as_floats_are_the_numbers_of_the_training(tiny_world, test_rows, tmp_path):
    """As a data frame has a column of whole numbers with a gap."""
    folder = tmp_path / "dataset"
    shutil.copytree(tiny_world / "dataset", folder, ignore=shutil.ignore_patterns(".arrays", "images"))
    log = pl.read_parquet(folder / "impressions.parquet")
    numbers = {scene: place for place, scene in enumerate(log["scene"].unique().sort())}
    log.with_columns(pl.col("scene").replace_strict(numbers)).write_parquet(folder / "impressions.parquet")
    info = read_json(folder / "dataset.json")
    info["tables"] |= {"impressions.parquet": digest([folder / "impressions.parquet"])}
    write_json(folder / "dataset.json", info)
    run, floats = trained(folder, tmp_path / "run", None), pl.col("scene").replace_strict(numbers).cast(pl.Float64)
    for kind in ("csv", "parquet"):
        rows, place = test_rows.with_columns(floats), tmp_path / f"log.{kind}"
        getattr(rows, f"write_{kind}")(place)
        found = downstream.serving.load(run).score(place, tmp_path / f"{kind}.parquet", columns=NAMED)
        assert not found.new_scenes
        scores = pl.read_parquet(tmp_path / f"{kind}.parquet")["score"]
        np.testing.assert_allclose(scores, np.load(run / "test_scores.npy"), atol=1e-6)


def test_a_run_that_has_lost_what_it_was_trained_on_is_named(run, table, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    summary = read_json(copy / "summary.json")
    write_json(copy / "summary.json", {**summary, "dataset_fingerprint": "other"})
    with pytest.raises(UserError, match="was trained on the dataset other"):
        downstream.serving.load(copy)
    write_json(copy / "summary.json", {**summary, "table": {**summary["table"], "encoder": {"name": "former"}}})
    with pytest.raises(UserError, match="another table than the run was trained on"):
        downstream.serving.load(copy)
    write_json(copy / "summary.json", {**summary, "settings": {**summary["settings"], "dropout": 0.5}})
    with pytest.raises(UserError, match=r"summary.json was made by another version .*dropout.*train again"):
        downstream.serving.load(copy)
    known = pl.read_parquet(copy / "vocabulary.parquet")
    known[1:].write_parquet(copy / "vocabulary.parquet")
    write_json(copy / "summary.json", summary | {"vocabulary": digest([copy / "vocabulary.parquet"])})
    with pytest.raises(UserError, match="with other codes"):
        downstream.serving.load(copy)


def test_the_command_says_what_it_did(run, test_rows, tmp_path, monkeypatch, capsys):
    test_rows.write_csv(tmp_path / "log.csv")
    given = ["--run", run, "--log", tmp_path / "log.csv", "--out", tmp_path / "scores.parquet", "--columns", NAMED]
    command = ["downstream.score", *map(str, given)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    assert "488 of 488 rows scored" in done.stdout and "where there are labels: auc 0." in done.stdout
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="1"):
        run_command(main)
    assert "exists already" in capsys.readouterr().err


def test_what_a_killed_score_left_is_cleared_by_the_next(run, test_rows, tmp_path):
    left = tmp_path / ".scores.parquet.work-killed"
    left.mkdir()
    (left / "log.parquet").touch()
    scored(run, test_rows, tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.csv", "scores.parquet"]


def test_page_views_are_scored_item_by_item(run, test_rows, tmp_path):
    keys = [name for name in test_rows.columns if name not in ("game", "liked")]
    rows = test_rows.sort(keys, maintain_order=True)
    _, flat = scored(run, rows, tmp_path)
    lists = rows.group_by(keys, maintain_order=True).agg("game", "liked")
    lists.write_parquet(tmp_path / "views.parquet")
    found = downstream.serving.load(run).score(tmp_path / "views.parquet", tmp_path / "lists.parquet", columns=NAMED)
    scores = pl.read_parquet(tmp_path / "lists.parquet")
    assert len(lists) < found.rows == found.scored == len(rows) and "one row a page view" in found.notes[0]
    assert scores.select("user_id", "item_id", "score").equals(flat.select("user_id", "item_id", "score"))


def test_ids_and_times_of_another_form_than_the_datasets_are_said(run, test_rows, tmp_path):
    changed = test_rows.with_columns(game=pl.format(" {}", "game"), player=pl.format("{} ", "player"))
    found, scores = scored(run, changed.with_columns(time=pl.lit(5)), tmp_path)
    assert not scores["known_user"].any() and not scores["known_item"].any()
    items, users, early = found.notes[-3:]
    assert "items of the log are not in the dataset: 100% of these ids would match without blanks" in items
    assert "users of the log are not in the dataset: 100% of these ids would match without blanks" in users
    assert "before the dataset begins" in early


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", r"run of downstream\.train.*name the folder of one"),
        ("run.csv", r"run of downstream\.train.*name the folder of one"),
        ("run", r"summary\.json does not hold an object .* copy it again"),
        ("other", r"run of downstream\.train.*name the folder of one"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, place, said):
    (tmp_path / "run.csv").touch()
    for folder, content in {"run": [], "other": {}}.items():
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "summary.json", content)
    with pytest.raises(UserError, match=said):
        downstream.serving.load(tmp_path / place)


def test_what_stops_a_score_is_shown_with_its_lines(run, test_rows, tmp_path):
    with pytest.raises(UserError, match=r"log\.csv, line 2: time 'soon'\n.*\n.*\n *expected: seconds"):
        scored(run, test_rows.with_columns(time=pl.lit("soon")), tmp_path)
    with pytest.raises(UserError, match="unknown name 'clik' in 'clik=liked'"):
        scored(run, test_rows, tmp_path, columns={"user_id": "player", "clik": "liked"})
    assert not (tmp_path / "scores.parquet").exists()


def test_rows_that_hold_objects_in_place_of_an_id_stop_the_score(run, test_rows, tmp_path):
    """Each would be an item of its own that the run does not know."""
    said = r"column 'game' must hold an id in each row, and holds objects such as \[\{(.|\n)*spread it first: python -c"
    refused(run, test_rows.with_columns(game=pl.lit('[{"id": "') + pl.col("game") + pl.lit('"}]')), tmp_path, said)


def test_a_place_seen_from_another_folder_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is nothing of that name in {tmp_path}"):
        open_dataset("somewhere/dataset")
    with pytest.raises(UserError, match=f"there is nothing of that name in {tmp_path}"):
        read_index("somewhere/shards")


def test_a_table_of_ids_in_another_form_is_explained(tiny_world, tmp_path):
    planted = read_table(tiny_world / "planted")
    write_table(tmp_path / "table", [f"{item} " for item in planted.ids], planted.vectors, {})
    with pytest.raises(UserError, match="100% of these ids would match without blanks round them"):
        trained(tiny_world / "dataset", tmp_path / "run", tmp_path / "table")
