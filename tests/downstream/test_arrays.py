"""The arrays on disk: equal to the tables, written once, read-only datasets, parts of the training split."""

import os
import shutil

import numpy as np
import polars as pl
import pytest

from data_tools.common.cli import UserError
from downstream.data import arrays
from downstream.data.codes import FIRST_KNOWN, UNKNOWN
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings


@pytest.fixture
def copy(small_world, tmp_path):
    """A dataset of our own, with scenes, conversions and odd clicks lists; what ``change`` returns is written."""

    def make(change=lambda shown: shown):
        folder = tmp_path / "dataset"
        shutil.copytree(small_world.folder, folder, ignore=shutil.ignore_patterns(".arrays"))
        shown = pl.read_parquet(folder / "impressions.parquet")
        change(shown).write_parquet(folder / "impressions.parquet")
        return folder

    return make


def with_scenes(shown):
    place = pl.int_range(pl.len())
    scene = pl.when(place % 7 == 0).then(None).when(pl.col("split") == "test").then(pl.lit("app"))
    scene = scene.when(place % 2 == 0).then(pl.lit("web")).otherwise(pl.lit("mail"))
    conversion = pl.when(pl.col("click") == 1).then(place % 3 == 0).cast(pl.Int8)
    return shown.with_columns(scene=scene, conversion=conversion)


def test_arrays_equal_the_tables_whatever_the_pieces(copy, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE", 97)
    folder = copy(with_scenes)
    data, shown, clicks = (
        load_ctr_data(folder, DataSettings()),
        *(pl.read_parquet(folder / f"{name}.parquet") for name in ("impressions", "clicks")),
    )
    for name in ("click", "user", "item", "clicks_before"):
        assert np.array_equal(getattr(data, name), shown[name].to_numpy())
    np.testing.assert_array_equal(data.conversion, shown["conversion"].cast(pl.Float32).fill_null(np.nan).to_numpy())
    code = {"mail": FIRST_KNOWN, "web": FIRST_KNOWN + 1}
    assert data.scene.tolist() == [code.get(scene, UNKNOWN) for scene in shown["scene"]]
    assert data.sizes["scene"] == FIRST_KNOWN + 2
    for split, rows in data.rows.items():
        assert rows.tolist() == [row for row, own in enumerate(shown["split"]) if own == split]
    for user, own in enumerate(clicks["items"].to_list()):
        assert data.clicked[data.offsets[user] : data.offsets[user + 1]].tolist() == own


def test_the_second_load_reads_no_table(copy, monkeypatch):
    folder = copy()
    first = load_ctr_data(folder, DataSettings())
    monkeypatch.setattr(arrays, "_write", lambda *_: pytest.fail("written again"))
    again = load_ctr_data(folder, DataSettings(history=3))
    assert np.array_equal(first.user, again.user) and first.sizes == again.sizes
    assert not again.user.flags.writeable


def test_changed_tables_and_settings_are_written_anew(copy):
    folder = copy()
    whole = load_ctr_data(folder, DataSettings())
    assert load_ctr_data(folder, DataSettings(words=2)).sizes["words"] == FIRST_KNOWN + 2
    shown = pl.read_parquet(folder / "impressions.parquet")
    shown.with_columns(click=1 - pl.col("click")).write_parquet(folder / "impressions.parquet")
    os.utime(folder / "impressions.parquet", (1, 1))
    assert np.array_equal(load_ctr_data(folder, DataSettings()).click, 1 - whole.click)


def test_a_read_only_dataset_keeps_its_arrays_elsewhere(copy, tmp_path, monkeypatch, capsys):
    folder = copy()
    (folder / ".arrays").write_text("no folder can be made here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = load_ctr_data(folder, DataSettings())
    assert "read-only" in capsys.readouterr().err
    assert len(data.click) and list((tmp_path / f"visual-interest-arrays-{os.getuid()}").rglob("click.npy"))


def test_a_folder_for_arrays_that_others_can_write_to_is_refused(copy, tmp_path, monkeypatch):
    folder = copy()
    (folder / ".arrays").write_text("no folder can be made here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (shared := tmp_path / f"visual-interest-arrays-{os.getuid()}").mkdir()
    shared.chmod(0o777)
    with pytest.raises(UserError, match="can be written to by others; remove it, or set TMPDIR"):
        load_ctr_data(folder, DataSettings())


def test_a_stopped_write_leaves_nothing(copy, monkeypatch):
    folder = copy()
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "_write_impressions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_ctr_data(folder, DataSettings())
    assert not list((folder / ".arrays").glob("*/*"))
    assert len(load_ctr_data(folder, DataSettings()).click)


def test_parts_of_the_training_split_decide_what_is_known(copy, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE", 64)
    folder = copy()
    whole = load_ctr_data(folder, DataSettings())
    halves = [load_ctr_data(folder, DataSettings(train_until=0.5)), load_ctr_data(folder, DataSettings(train_from=0.5))]
    assert np.array_equal(np.concatenate([half.rows["train"] for half in halves]), whole.rows["train"])
    for half in halves:
        assert np.array_equal(half.rows["test"], whole.rows["test"])
        assert set(np.flatnonzero(half.warm)) == set(half.item[half.rows["train"]])
        assert (half.item_code >= FIRST_KNOWN).sum() == half.warm.sum() == half.sizes["item"] - FIRST_KNOWN


def test_wrong_tables_and_settings_are_named(copy):
    folder = copy(lambda shown: shown.drop("clicks_before"))
    with pytest.raises(UserError, match=r"impressions.parquet has no columns \['clicks_before'\]"):
        load_ctr_data(folder, DataSettings())
    for wrong in ({"train_from": 0.5, "train_until": 0.5}, {"train_until": 1.5}, {"history": 0}):
        with pytest.raises(UserError, match=r"must (be|end)"):
            DataSettings(**wrong)
