"""Files of CTR trainings that were damaged or cut short: each is named, with what to do, and caches are made again."""

import json
import os
import shutil

import numpy as np
import pytest

from data_tools.common.cli import UserError, progress_bar
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import read_tensors
from downstream.comparison.cells import Cell, cell_digest, run_cells
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import DataSettings, OptimSettings
from downstream.training.checkpoints import Checkpoints
from downstream.training.fit import fit
from downstream.training.run import RunSettings, train
from downstream.training.saved_runs import load_run
from downstream.training.settings import TrainingSettings
from downstream.training.warm_up import kept_vocabulary


def flip(path, place=None):
    """Flip one bit of a file, by default in its middle."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 if place is None else place] ^= 4
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def data(small_world):
    return load_ctr_data(small_world.folder, DataSettings(history=6))


@pytest.fixture(scope="module")
def finished(small_world, tmp_path_factory):
    """A run from IDs alone."""
    out = tmp_path_factory.mktemp("runs") / "ids"
    data, optim = DataSettings(history=6), OptimSettings(batch_size=512)
    with progress_bar(shown=False) as progress:
        train(RunSettings(data, optim=optim, dataset=str(small_world.folder), out=str(out)), progress)
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("share", np.linspace(0.01, 0.99, 12))
def test_a_flipped_bit_in_the_weights_of_a_run_is_named(share, run):
    weights = run / "model.safetensors"
    flip(weights, int(share * weights.stat().st_size))
    with pytest.raises(UserError, match=r"model.safetensors (has digest|is damaged).*copy it again, or train again"):
        load_run(run)


def test_a_run_cut_short_is_named(run):
    os.truncate(run / "model.safetensors", 1000)
    with pytest.raises(UserError, match=r"model.safetensors is damaged, or cut to 1,000 bytes: .*train again"):
        load_run(run)


def test_a_flipped_bit_in_the_vocabulary_of_a_run_is_named(run):
    whole = kept_vocabulary(run)
    flip(run / "vocabulary.parquet")
    for read in (load_run, kept_vocabulary):
        with pytest.raises(UserError, match=r"vocabulary.parquet has digest \w+, summary.json promises .*train again"):
            read(run)
    described = read_json(run / "summary.json")
    del described["vocabulary"]  # as in runs that record none
    write_json(run / "summary.json", described)
    flip(run / "vocabulary.parquet")
    assert kept_vocabulary(run).equals(whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "of something else"])
def test_a_damaged_checkpoint_is_named(damage, data, finished, tmp_path):
    settings = TrainingSettings(data.settings, optim=OptimSettings(batch_size=512))
    fit(data, None, settings, seed=1, checkpoints=Checkpoints(tmp_path, 2))
    checkpoint = tmp_path / "training-0.safetensors"
    assert read_tensors(checkpoint)
    if damage == "flipped":
        flip(checkpoint)
    elif damage == "of something else":
        shutil.copyfile(finished / "model.safetensors", checkpoint)
    else:
        os.truncate(checkpoint, 0 if damage == "empty" else checkpoint.stat().st_size // 2)
    with pytest.raises(
        UserError, match=r"training-0.safetensors (is|has) .*remove it, and the same command trains from"
    ):
        fit(data, None, settings, seed=1, checkpoints=Checkpoints(tmp_path, 2))


def test_damaged_arrays_are_written_again(small_world, tmp_path, capsys):
    folder = shutil.copytree(small_world.folder, tmp_path / "dataset", ignore=shutil.ignore_patterns(".arrays"))
    whole = load_ctr_data(folder, DataSettings(history=6))
    clicks, home = np.array(whole.click), whole.home
    for name in ("click.npy", "vocabulary.parquet", "arrays.json"):
        flip(home / name)
        again = load_ctr_data(folder, DataSettings(history=6))
        assert f"{home} was damaged and is written again" in capsys.readouterr().err
        assert np.array_equal(again.click, clicks) and again.sizes == whole.sizes
    load_ctr_data(folder, DataSettings(history=6))
    assert not capsys.readouterr().err
    described = json.loads((home / "arrays.json").read_text())
    del described["digests"]  # as in those that record none
    write_json(home / "arrays.json", described)
    assert np.array_equal(load_ctr_data(folder, DataSettings(history=6)).click, clicks)
    assert not capsys.readouterr().err


def test_a_damaged_cell_of_a_comparison_is_named(data, tmp_path):
    cell = Cell("ids", "none", "dicm", 0, None, TrainingSettings(data.settings, optim=OptimSettings(batch_size=512)))
    run_cells([cell], tmp_path, data, 1, progress_bar(shown=False))
    flip(tmp_path / cell_digest(cell, data) / "test_scores.npy")
    with pytest.raises(
        UserError, match=r"test_scores.npy has digest .*remove .*, and the same command trains it again"
    ):
        run_cells([cell], tmp_path, data, 1, progress_bar(shown=False))
