"""Tables of vectors that cannot be used, or were damaged: each is named, with what to do."""

import gzip
import json
import re
import subprocess

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_tools.common.errors import UserError
from data_tools.common.files import read_json, write_json
from data_tools.tables.layouts import LAYOUTS, layout_of
from data_tools.tables.table import read_table, write_table

IDS = ["a", "b", "007", "d"]


VECTORS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


WIDE = {f"e{n}": VECTORS[:, n] for n in range(3)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["[1, 2]", "[3, x]"], "no vector of numbers"),
        (["[1 2 ... 5]", "[1 2 ... 6]"], "cut short"),
        (["[1, 2]", "[3]"], "several sizes"),
    ],
)
def test_text_that_is_no_vector_is_refused(tmp_path, values, message):
    pl.DataFrame({"item_id": ["a", "b"], "embedding": values}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "t.parquet")


CELLS = {
    "N/A": "named as a dimension but holds 'N/A'",
    "0,5": "holds '0,5'; the fraction of a number must follow a point",
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_dimension_with_a_cell_that_is_no_number_is_refused_not_left_out(tmp_path, cell):
    frame = pl.DataFrame({"item_id": IDS, **WIDE}).with_columns(pl.col("e1").cast(pl.String))
    frame.with_columns(e1=pl.when(pl.int_range(4) == 2).then(pl.lit(cell)).otherwise("e1")).write_csv(
        tmp_path / "t.csv", separator=";"
    )
    with pytest.raises(UserError, match=CELLS[cell]):
        read_table(tmp_path / "t.csv")


def saved(folder, vectors, ids=IDS):
    np.save(folder / "t.npy", vectors)
    np.save(folder / "t.ids.npy", ids)


WRONG = {
    "transposed": (VECTORS.T, r"not \(ids, size\); transpose them"),
    "bfloat16": ((VECTORS.view("u4") >> 16).astype("u2").view("V2"), r"as numpy writes bfloat16.*astype"),
    "too long": (VECTORS * 1e30, "too long for float32"),
    "too short": (VECTORS * 1e-30, r"4 vectors are shorter than 1e-12, which would count as zeros.*multiply"),
    "objects": (np.array([*VECTORS, None], dtype=object)[:4], r"objects \(a pickle\).*numpy.stack"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_vectors_that_cannot_be_used_are_named(tmp_path, kind):
    saved(tmp_path, WRONG[kind][0])
    with pytest.raises(UserError, match=WRONG[kind][1]):
        read_table(tmp_path / "t.npy")


def test_text_of_vectors_without_ids_is_refused(tmp_path):
    """Its first dimension would be taken for ids: TensorBoard's projector has such files."""
    np.savetxt(tmp_path / "vectors.tsv", VECTORS, delimiter="\t")
    with pytest.raises(UserError, match=r"numbers alone, the first .* and no ids"):
        read_table(tmp_path / "vectors.tsv")
    frame = pl.DataFrame(VECTORS).insert_column(0, pl.Series("id", [10, 11, 12, 13]))
    frame.write_csv(tmp_path / "with.tsv", separator="\t", include_header=False)
    assert read_table(tmp_path / "with.tsv").ids == ["10", "11", "12", "13"]


def test_ids_that_no_float_holds_are_not_made_whole(tmp_path):
    np.savez(tmp_path / "t.npz", ids=(np.arange(12) + 20_000_001).astype(np.float32), vectors=np.eye(12, 4) + 1)
    with pytest.raises(UserError, match="occur more than once"):
        read_table(tmp_path / "t.npz")


LINES = [" ".join([item, *map(str, vector.tolist())]) for item, vector in zip(IDS, VECTORS, strict=True)]


ELSEWHERE = {
    "t.glove": ("\n".join(LINES), "tr ' ' .*?[.]tsv(?=;)", "t.glove.tsv"),
    "t.vec": ("\n".join(["4 3", *LINES]), "tail .*[.]tsv", "t.vec.tsv"),
    "t.jsonl": (
        "\n".join(json.dumps({"item_id": i, "embedding": v.tolist()}) for i, v in zip(IDS, VECTORS, strict=True)),
        "python -c '.*'",
        "t.jsonl.parquet",
    ),
    "t.json": (
        json.dumps(dict(zip(IDS, VECTORS.tolist(), strict=True))),
        "python -c '.*'",
        "t.json.parquet",
    ),
    "t.item": (
        "\n".join(["item_id:token\temb:float_seq", *(line.replace(" ", "\t", 1) for line in LINES)]),
        "cp .*",
        "t.itememb",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_ending_that_is_not_read_names_the_command_that_makes_a_table(tmp_path, name):
    text, command, made = ELSEWHERE[name]
    (tmp_path / name).write_text(text + "\n")
    with pytest.raises(UserError, match="unknown ending") as caught:
        read_table(tmp_path / name)
    subprocess.run(re.search(command, str(caught.value))[0], shell=True, check=True)
    found = read_table(tmp_path / made)
    assert found.ids == IDS and np.allclose(found.vectors, VECTORS)


@pytest.mark.parametrize(("name", "said"), [("t.pkl", "A pickle is never loaded"), ("t.xlsx", "Write it as CSV")])
def test_an_ending_that_is_never_read_says_what_to_write(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=said):
        read_table(tmp_path / name)


FOLDERS = {
    "dataset.json": "is a dataset, not a table of vectors",
    "index.json": "is a folder of shards, not a table of vectors",
    "run.json": "is a run, not a table of vectors: name the folder that it was exported to, such as .*/tables/trained",
}


@pytest.mark.parametrize("mark", FOLDERS)
def test_other_folders_of_ours_are_no_tables(tmp_path, mark):
    (tmp_path / mark).write_text("{}")
    pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(UserError, match=FOLDERS[mark]):
        read_table(tmp_path)


def test_files_that_are_something_else_are_named(tmp_path):
    saved(tmp_path, VECTORS)
    (tmp_path / "t.ids.npy").unlink()
    (tmp_path / "t.ids.txt").write_bytes("é\nb\nc\nd".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.ids\.txt is not UTF-8; save it as UTF-8"):
        read_table(tmp_path / "t.npy")
    (tmp_path / "t.npy").write_bytes(b"PAR1 and so on")
    with pytest.raises(UserError, match=r"no file of numpy: it begins b'PAR1"):
        read_table(tmp_path / "t.npy")
    (tmp_path / "t.npy.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match="compressed, and only text may be; decompress it first"):
        read_table(tmp_path / "t.npy.gz")
    pl.DataFrame({"item_id": IDS, "embedding": [b"\0\0\0\0"] * 4}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"the vectors are bytes.*numpy\.frombuffer"):
        read_table(tmp_path / "t.parquet")
    pl.DataFrame({"item_id": IDS, "embedding": [{"x": 1.0, "y": 2.0}] * 4}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"the vectors are structs; spread them first: \.unnest"):
        read_table(tmp_path / "t.parquet")


def test_objects_are_refused_with_what_to_do(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array(IDS, dtype=object), vectors=VECTORS)
    with pytest.raises(UserError, match="dtype=str"):
        read_table(tmp_path / "t.npz")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "t.pt")
    with pytest.raises(UserError, match="not a file of plain tensors"):
        read_table(tmp_path / "t.pt")


def test_a_flipped_bit_in_a_part_is_refused(tmp_path):
    """Every 97th byte of the part, one bit of it."""
    write_table(tmp_path / "t", IDS, VECTORS, {})
    part = tmp_path / "t" / "part-00000.parquet"
    whole = part.read_bytes()
    for place in range(0, len(whole), 97):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"part-00000.parquet has digest \w+, table.json promises .*export again"):
            read_table(tmp_path / "t")
    part.write_bytes(whole)
    assert read_table(tmp_path / "t").ids == IDS


def test_a_part_too_few_or_too_many_is_refused_and_old_tables_load(tmp_path):
    write_table(tmp_path / "t", IDS, VECTORS, {})
    part = tmp_path / "t" / "part-00000.parquet"
    part.rename(tmp_path / "t" / "part-00001.parquet")
    with pytest.raises(UserError, match=r"lacks part-00000.parquet"):
        read_table(tmp_path / "t")
    (tmp_path / "t" / "part-00001.parquet").rename(part)
    described = read_json(tmp_path / "t" / "table.json")
    del described["parts"]
    write_json(tmp_path / "t" / "table.json", described)
    assert read_table(tmp_path / "t").ids == IDS


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".parquet", ".csv", ".pt"])
def test_damaged_tables_are_refused_in_one_message(suffix, tmp_path):
    """Files cut and overwritten anywhere: what their libraries raise is no traceback."""
    path, ids = tmp_path / f"table{suffix}", [f"i{n}" for n in range(6)]
    layout = LAYOUTS[layout_of(path)]
    layout.write(path, ids, np.ones((6, 3), np.float32))
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        for changed in (whole[:at], whole[:at] + bytes(8) + whole[at + 8 :]):
            path.write_bytes(changed)
            try:
                read_table(path)
            except UserError:
                refused += 1
    assert refused > 20, "some damage is in what nobody reads, most is not"


def test_a_module_is_never_loaded(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "t.pt")
    with pytest.raises(
        UserError, match=r"it holds objects \(a pickle\), which are never loaded.*save a dict of tensors"
    ):
        read_table(tmp_path / "t.pt")


def test_a_table_without_vectors_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([], dtype=str), vectors=np.zeros((0, 4), np.float32))
    with pytest.raises(UserError, match=r"t\.npz holds no vectors"):
        read_table(tmp_path / "t.npz")


def test_numbers_with_a_fraction_are_no_ids(tmp_path):
    """The lengths of vectors, or a layer's bias, fit a table as ids do."""
    np.savez(tmp_path / "t.npz", embeddings=VECTORS, norms=np.linalg.norm(VECTORS, axis=1))
    with pytest.raises(UserError, match=r"item ids such as \d\.\d+ are neither text nor whole numbers"):
        read_table(tmp_path / "t.npz")


def test_several_vectors_in_a_row_and_maps_are_refused(tmp_path):
    pl.DataFrame({"item_id": IDS, "embedding": [[[1.0, 2.0]] * 2] * 4}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"each row has several vectors; write one: numpy.mean"):
        read_table(tmp_path / "t.parquet")
    maps = pa.array([[("0", 1.0), ("1", 2.0)]] * 4, pa.map_(pa.string(), pa.float32()))
    pq.write_table(pa.table({"item_id": IDS, "embedding": maps}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"the vectors are Map.*; write lists of numbers"):
        read_table(tmp_path / "t.parquet")


def test_a_torchscript_module_is_no_table(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "t.pt"))
    with pytest.raises(
        UserError, match=r"not a file of plain tensors: .*TorchScript.*; save a dict of tensors"
    ) as caught:
        read_table(tmp_path / "t.pt")
    assert "Re-running" not in str(caught.value)
