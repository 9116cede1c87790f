"""What is read is what was written: a flipped bit anywhere in a dataset's tables or in a file of tensors is named."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import read_described, read_tensors, write_tensors
from data_tools.dataset.schema import REQUIRED, open_dataset
from data_tools.inspection.log import log_facts
from data_tools.sharding.write import Settings, write_shards

TENSORS = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "none": torch.zeros(0, 4),
}


def flip(path, place, bit=2):
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.fixture
def dataset(tiny_world, tmp_path):
    """A copy of the tiny world's dataset."""
    return shutil.copytree(tiny_world / "dataset", tmp_path / "dataset")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_flipped_bit_anywhere_in_a_table_is_named(name, dataset):
    path = dataset / f"{name}.parquet"
    assert open_dataset(dataset).table(name) == path
    for place in range(0, path.stat().st_size, path.stat().st_size // 50):
        flip(path, place)
        with pytest.raises(
            UserError, match=rf"{name}.parquet (has digest \w+, dataset.json promises|is .*damaged).* or "
        ):
            open_dataset(dataset).table(name)
        flip(path, place)
    assert open_dataset(dataset).table(name) == path


def test_every_stage_that_reads_a_table_compares_it(dataset, tmp_path):
    middle = (dataset / "impressions.parquet").stat().st_size // 2
    flip(dataset / "impressions.parquet", middle)
    for read in (
        lambda: write_shards(Settings(dataset=str(dataset), out=str(tmp_path / "shards"))),
        lambda: log_facts(open_dataset(dataset)),
        lambda: open_dataset(dataset).impressions,
    ):
        with pytest.raises(
            UserError, match=r"impressions.parquet has digest .* copy it again, or make the dataset again"
        ):
            read()
    assert not (tmp_path / "shards").exists()


def test_a_dataset_without_digests_is_read(dataset):
    whole = open_dataset(dataset).items
    described = read_json(dataset / "dataset.json")
    del described["tables"]
    write_json(dataset / "dataset.json", described)
    assert open_dataset(dataset).items.equals(whole)


def test_a_flipped_bit_anywhere_in_a_file_of_tensors_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, TENSORS, {"state": json.dumps({"step": 40})})
    found, about = read_described(path)
    assert json.loads(about["state"]) == {"step": 40}
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in found)
    unnoticed = []
    for place in range(path.stat().st_size):
        flip(path, place)
        try:
            changed, said = read_described(path, "copy it again")
            same = all(torch.equal(changed[name], found[name]) for name in found)
            unnoticed += [] if same and said["state"] == about["state"] else [place]
        except UserError as error:
            assert str(path) in str(error) and str(error).endswith("copy it again")
        flip(path, place)
    assert not unnoticed


@pytest.mark.parametrize("length", [0, 7, 40, 400, -1])
def test_tensors_cut_short_are_named(length, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, TENSORS)
    os.truncate(path, length if length >= 0 else path.stat().st_size - 1)
    with pytest.raises(
        UserError, match=rf"weights.safetensors is damaged, or cut to {path.stat().st_size} bytes: .*again"
    ):
        read_tensors(path)


def test_others_read_our_tensors_and_we_read_theirs(tmp_path):
    write_tensors(tmp_path / "ours.safetensors", TENSORS)
    save_file(TENSORS, tmp_path / "theirs.safetensors")
    for found in (load_file(tmp_path / "ours.safetensors"), read_tensors(tmp_path / "theirs.safetensors")):
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
