"""Values that no command can use, whatever it does: one message at once, before anything is read or written."""

import pytest

from data_tools import prepare, shards
from data_tools.common.cli import parse_settings
from data_tools.common.errors import UserError
from data_tools.common.lists import comma_separated, with_commas
from data_tools.reading.columns import LOG_COLUMNS, parse_columns
from data_tools.simulation.settings import World
from downstream import compare, store
from downstream import train as ctr
from downstream.settings import DataSettings
from downstream.statistics.bootstrap import BootstrapSettings
from pretrain import run_page, train
from pretrain.training.runs import open_run, read_settings

SEEDED = {
    "prepare": (prepare.Settings, "--seed", ["--impressions", "x", "--items", "x", "--out", "x"]),
    "shards": (shards.Settings, "--seed", ["--dataset", "x", "--out", "x"]),
    "world": (World, "--seed", []),
    "train": (train.Settings, "--seed", []),
    "train's world": (train.Settings, "--world.seed", []),
    "run_page": (run_page.Settings, "--seed", ["--run", "x"]),
    "downstream.train": (ctr.Settings, "--seed", ["--dataset", "x", "--out", "x"]),
    "compare": (compare.Settings, "--bootstrap.seed", []),
}


@pytest.mark.parametrize("command", SEEDED)
@pytest.mark.parametrize("seed", ["-1", str(2**32), str(2**80)])
def test_seeds_are_those_that_every_generator_takes(command, seed, capsys):
    settings, flag, others = SEEDED[command]
    with pytest.raises(SystemExit):
        parse_settings(settings, "", [f"{flag}={seed}", *others])
    assert f"{flag} is {seed}; must be >= 0 and < 4294967296" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--ctr_seeds", "[-1]", "each a whole number >= 0 and < 4294967296"),
        ("--ctr_seeds", "[9223372036854775808]", "each a whole number >= 0"),
        ("--encoder_seeds", "[-1]", "each a whole number >= 0"),
        ("--bootstrap.resamples", "0", "must be > 0"),
        ("--bootstrap.level", "95", "must be > 0 and < 1"),
        ("--bootstrap.level", "1.0", "must be > 0 and < 1"),
    ],
)
def test_ranges_of_a_comparison(flag, value, said, capsys):
    with pytest.raises(SystemExit):
        parse_settings(compare.Settings, "", [flag, value])
    assert said in capsys.readouterr().err


def test_a_level_in_per_cent_is_refused_from_python_too():
    with pytest.raises(UserError, match="level is 95; must be > 0 and < 1"):
        BootstrapSettings(level=95)


@pytest.mark.parametrize("quality", ["0", "96", "500"])
def test_the_quality_of_jpeg_has_a_range(quality, capsys):
    with pytest.raises(SystemExit):
        parse_settings(shards.Settings, "", ["--dataset", "x", "--out", "x", "--quality", quality])
    assert f"--quality is {quality}; must be >= 1 and <= 95" in capsys.readouterr().err


@pytest.mark.parametrize("held", ["index.json", "dataset.json", "table.json"])
def test_a_run_is_not_written_into_what_is_something_else(held, tmp_path):
    (tmp_path / held).write_text("{}")
    with pytest.raises(UserError, match=f"is not the folder of a run: it has {held}; name another one with --out"):
        open_run(train.Settings(out=str(tmp_path)), lambda: None)


def test_a_run_is_a_folder(tmp_path):
    (tmp_path / "log.csv").touch()
    with pytest.raises(UserError, match=r"log\.csv is a file; name a folder"):
        open_run(train.Settings(out=str(tmp_path / "log.csv")), lambda: None)
    for place in (tmp_path, tmp_path / "log.csv", tmp_path / "nowhere"):
        with pytest.raises(
            UserError, match=r"is not a run of pretrain\.train \(no run\.json\); name the folder of one"
        ):
            read_settings(place)


def test_a_record_without_settings_is_no_run(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json lacks the settings of the run; copy it again"):
        read_settings(tmp_path)


def test_infinite_settings_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("optim:\n  lr: .inf\n")
    with pytest.raises(UserError, match=r"lr is inf; must be finite"):
        parse_settings(train.Settings, "", ["--config", str(tmp_path / "c.yaml")])


def test_what_a_section_that_may_be_null_says_of_its_values_is_one_message(tmp_path):
    (tmp_path / "c.yaml").write_text("sources:\n  ids: null\n  mine: {table: t.npy, run: r}\n")
    with pytest.raises(UserError, match=r"^a source is a run, or an encoder with its table, or a table, not several"):
        parse_settings(compare.Settings, "", ["--config", str(tmp_path / "c.yaml"), "--out", "x", "--dataset", "d"])


@pytest.mark.parametrize(
    ("settings", "flag", "others"),
    [
        (ctr.Settings, "--optim.threads", ["--dataset", "x", "--out", "x"]),
        (ctr.Settings, "--optim.loader_threads", ["--dataset", "x", "--out", "x"]),
        (shards.Settings, "--workers", ["--dataset", "x", "--out", "x"]),
        (train.Settings, "--batch.workers", []),
        (compare.Settings, "--workers", []),
    ],
)
def test_more_threads_or_processes_than_a_machine_starts_are_refused(settings, flag, others, capsys):
    """They ended the process without a word of ours."""
    with pytest.raises(SystemExit):
        parse_settings(settings, "", [f"{flag}=100000", *others])
    said = capsys.readouterr().err
    assert f"{flag} is 100000; must be " in said and "<= 1024" in said


@pytest.mark.parametrize(
    ("settings", "flag", "value", "said"),
    [
        (train.Settings, "--batch.history", "1000000000", "must be > 0 and <= 100000"),
        (train.Settings, "--batch.slots", "1000000000", "must be > 0 and <= 100000"),
        (train.Settings, "--evaluation.history", "100001", "must be > 0 and <= 100000"),
        (train.Settings, "--batch.colour_jitter", "2.5", "must be >= 0 and <= 2"),
        (compare.Settings, "--training.data.history", "1000000000", "must be > 0 and <= 100000"),
        (store.Settings, "--parts", "1000000", "must be a whole number > 0 and <= 10000 or null"),
    ],
)
def test_sizes_that_no_batch_has_room_for_are_refused(settings, flag, value, said, capsys):
    with pytest.raises(SystemExit):
        parse_settings(
            settings, "", [f"{flag}={value}", *(["--table=x", "--out=x"] if settings is store.Settings else [])]
        )
    assert f"{flag} is {value}; {said}" in capsys.readouterr().err


def test_a_long_history_needs_no_longer_search():
    assert DataSettings(history=20_000).history == 20_000


@pytest.mark.parametrize(("kind", "held"), [("requests", "requests to train on"), ("items", "items with pictures")])
def test_steps_of_more_rows_than_there_are_are_refused(kind, held, tiny_world):
    train.check_rows(str(tiny_world / "shards"), kind, 1024)
    for rows in (100_000, 10**9):
        with pytest.raises(UserError, match=rf"--batch.rows is {rows:,}, but .*shards holds \d+ {held}; give at most"):
            train.check_rows(str(tiny_world / "shards"), kind, rows)


def test_parts_of_a_list_may_hold_commas():
    for parts in (["a", "b"], ["a, b", "c"], ['say "x"', "b"], ["a=b,c"]):
        assert comma_separated(with_commas(parts)) == parts
    assert comma_separated("") == [] and comma_separated(" a ,, b\n") == ["a", "", "b"]
    assert parse_columns('user_id=player,"click=liked, yes"', "--columns", LOG_COLUMNS) == {
        "user_id": "player",
        "click": "liked, yes",
    }
