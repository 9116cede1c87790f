"""The feature store: what is put in comes out, wherever it lies; growth touches nothing; faults are named."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from data_tools.common.cli import UserError, run_command
from data_tools.common.files import read_json, write_json
from data_tools.common.locks import locked
from data_tools.tables.table import EmbeddingTable, write_table
from downstream import store as module
from downstream.ams.feature_store import append, create_store, open_store
from downstream.ams.serving import EmbeddingModel, Serving


def features(count, start=0, width=6):
    return np.random.default_rng(start).standard_normal((count, width)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    """23 items appended in two goes, the first in two chunks, over 5 parts; and their features."""
    ids, values = [f"i{k}" for k in range(23)], features(23)
    made = create_store(tmp_path / "store", (6,), np.float32, 5)
    made = append(made, [(ids[:4], values[:4]), (ids[4:11], values[4:11])])
    append(made, [(ids[11:], values[11:])])
    return open_store(tmp_path / "store"), values


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_item_is_stored_by_one_process_and_reads_back(store, processes):
    store, values = store
    rows = store.rows_of([f"i{k}" for k in range(23)])
    assert sorted(rows) == list(range(23))
    partitions = [store.partition(rank, processes) for rank in range(processes)]
    holders = np.stack([np.isin(rows % store.parts, list(partition.maps)) for partition in partitions])
    assert (holders.sum(axis=0) == 1).all()
    for holds, partition in zip(holders, partitions, strict=True):
        shuffled = np.random.default_rng(0).permutation(np.flatnonzero(holds))
        np.testing.assert_array_equal(partition.read(rows[shuffled]), values[shuffled])
    assert sum(partition.stored_bytes for partition in partitions) == values.nbytes
    counts = holders.sum(axis=1)
    assert counts.max() - counts.min() <= -(-5 // processes) - 5 // processes + 23 // 5 + 1


def test_ids_are_compared_as_text_and_absent_ones_are_marked(tmp_path):
    store = append(create_store(tmp_path / "s", (2,), np.float16, 2), [([7, 8], features(2, width=2))])
    assert store.rows_of(["8", 7, "nine"]).tolist() == [1, 0, -1]
    assert store.rows_of([]).shape == (0,)


def test_images_are_stored_too(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(5, 3, 4, 4), dtype=np.uint8)
    store = append(create_store(tmp_path / "s", (3, 4, 4), np.uint8, 2), [(list("abcde"), images)])
    np.testing.assert_array_equal(store.partition().read(np.array([3, 0])), images[[3, 0]])


def test_growing_changes_no_byte_that_is_there_and_old_readers_still_work(store):
    store, values = store
    before = {file.name: file.read_bytes() for file in store.folder.glob("part-*")}
    reading = store.partition()
    grown = append(store, [(["new"], features(1, 9))])
    for name, content in before.items():
        assert (store.folder / name).read_bytes().startswith(content)
    np.testing.assert_array_equal(reading.read(np.arange(23)), values)
    np.testing.assert_array_equal(grown.partition().read(grown.rows_of(["new"])), features(1, 9))


def test_an_interrupted_appending_leaves_nothing(store):
    store, values = store

    def interrupted():
        yield ["a", "b"], features(2, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(store, interrupted())
    again = open_store(store.folder)
    assert again.count == 23 and again.rows_of(["a"]) == -1
    grown = append(again, [(["c"], features(1, 2))])
    np.testing.assert_array_equal(grown.partition().read(np.arange(24)), np.concatenate([values, features(1, 2)]))


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (["i3"], features(1), "already in the store"),
        (["x", "x"], features(2), "twice"),
        (["x"], features(1, width=5), r"each must be \(6,\)"),
        (["x"], np.full((1, 6), np.nan), "NaN"),
    ],
)
def test_what_cannot_be_appended_is_named_and_changes_nothing(store, ids, values, message):
    with pytest.raises(UserError, match=message):
        append(store[0], [(ids, values)])
    np.testing.assert_array_equal(open_store(store[0].folder).partition().read(np.arange(23)), store[1])


def test_faulty_files_are_named_all_at_once(store):
    store, _ = store
    (store.folder / "part-00000.bin").unlink()
    short, changed = store.folder / "part-00002.bin", store.folder / "part-00003.bin"
    short.write_bytes(short.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store.partition()
    said = str(caught.value)
    assert "part-00000.bin is missing" in said
    assert "part-00002.bin has 119 bytes instead of 120" in said
    assert "part-00003.bin: digest" in said and "append 1" in said
    store.partition(1, 5)  # who owns none of them can continue
    store.partition(3, 5, verify=False)
    (store.folder / "ids-0001.parquet").unlink()
    with pytest.raises(UserError, match=r"ids-0001.parquet is missing: the ids of 12 items"):
        store.ids()


def test_more_processes_than_parts_and_no_store_are_named(store, tmp_path):
    with pytest.raises(UserError, match="5 parts for 6 processes"):
        store[0].partition(0, 6)
    with pytest.raises(UserError, match="is not a feature store"):
        open_store(tmp_path)


def test_the_command_makes_a_store_of_a_table_and_appends_what_is_new(tmp_path, monkeypatch, capsys):
    values = features(9)
    write_table(tmp_path / "monday", list(range(6)), values[:6], {})
    write_table(tmp_path / "tuesday", list(range(2, 9)), values[2:], {})
    for table in ("monday", "tuesday"):
        arguments = ["--table", tmp_path / table, "--out", tmp_path / "store", "--parts", 3]
        monkeypatch.setattr(sys, "argv", ["store", *map(str, arguments)])
        monkeypatch.setattr(module, "CHUNK", 50)  # several chunks
        run_command(module.main)
    assert "3 items appended, 4 were there" in " ".join(capsys.readouterr().out.split())
    store = open_store(tmp_path / "store")
    np.testing.assert_array_equal(store.partition().read(store.rows_of(range(9))), values)


def flip(path, place):
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1
    path.write_bytes(whole)


def test_a_flipped_bit_anywhere_in_a_store_is_named(store):
    """In its index, its ids and its parts, one bit of every byte of the first, some of the others."""
    store, values = store
    for name in ("store.json", "ids-0000.parquet", "part-00001.bin"):
        path = store.folder / name
        for place in range(0, path.stat().st_size, 1 if name == "store.json" else 13):
            flip(path, place)
            try:
                again = open_store(store.folder)
                found = again.partition().read(again.rows_of([f"i{k}" for k in range(23)]))
                assert name == "store.json" and np.array_equal(found, values), "where blanks or unused names are"
            except UserError as error:
                assert str(store.folder) in str(error)
            flip(path, place)


def test_reading_some_rows_verifies_the_appends_they_came_with(store):
    store, values = store
    flip(store.folder / "part-00003.bin", -3)  # in the second append
    np.testing.assert_array_equal(store.read(np.arange(11)), values[:11])
    np.testing.assert_array_equal(store.read(np.array([22, 12])), values[[22, 12]])
    with pytest.raises(UserError, match=r"part-00003.bin: digest \w+ of append 1"):
        store.read(np.array([3, 13]))


def test_what_is_embedded_later_is_verified_too(store):
    store, values = store
    model = EmbeddingModel(nn.Identity(), torch.zeros(6), torch.ones(6), np.zeros(6, np.float32))
    serving = Serving(EmbeddingTable(["i0"], values[:1]), model)
    np.testing.assert_array_equal(serving(["i9", "i0", "none"], store), [values[9], values[0], np.zeros(6)])
    flip(store.folder / "part-00004.bin", 0)  # of the rows 4, 9, ...
    with pytest.raises(UserError, match=r"part-00004.bin: digest"):
        serving(["i9"], store)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 24}, "contradicts itself"),
        ({"parts": 4}, "contradicts itself"),
        ({"shape": []}, "part-00000.bin has 100 bytes|digest"),
        ({"dtype": "float99"}, "is damaged"),
        ({"appended": None}, "is damaged"),
    ],
)
def test_an_index_that_does_not_fit_is_named(store, change, said):
    folder = store[0].folder
    info = read_json(folder / "store.json")
    write_json(folder / "store.json", info | change)
    with pytest.raises(UserError, match=said):
        open_store(folder).partition()


def test_a_part_cut_short_is_not_filled_with_zeros(store):
    store, _ = store
    part = store.folder / "part-00002.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"part-00002.bin has 119 bytes instead of 120"):
        append(store, [(["new"], features(1))])
    assert part.stat().st_size == 119 and open_store(store.folder).count == 23


def test_two_that_append_at_once_do_not_lose_anything(store):
    store, values = store
    with locked(store.folder), pytest.raises(UserError, match="another process is writing"):
        append(store, [(["new"], features(1))])
    append(store, [(["new"], features(1))])
    with pytest.raises(UserError, match=r"another process appended to .* meanwhile; run the same command again"):
        append(store, [(["newer"], features(1))])
    grown = open_store(store.folder)
    np.testing.assert_array_equal(grown.partition().read(np.arange(23)), values)
    assert append(grown, []).appended == grown.appended == open_store(store.folder).appended


def test_features_of_another_encoder_are_not_appended(tmp_path, monkeypatch):
    values = features(9)
    for name, ids, by in (("monday", range(6), "a"), ("tuesday", range(2, 9), "b"), ("elsewhere", range(3, 9), None)):
        write_table(tmp_path / name, list(ids), values[list(ids)], {"checkpoint": by} if by else {})

    def put(table):
        monkeypatch.setattr(sys, "argv", ["store", "--table", str(tmp_path / table), "--out", str(tmp_path / "store")])
        module.main()

    put("monday")
    with pytest.raises(UserError, match=r"another encoder: \{'checkpoint': 'a'\} instead of \{'checkpoint': 'b'\}"):
        put("tuesday")
    assert open_store(tmp_path / "store").count == 6
    put("elsewhere")  # of which nothing is known
    assert open_store(tmp_path / "store").count == 9
