"""Embedding tables as people have them, and damaged ones of our own."""

import contextlib
import gzip
import json

import h5py
import numpy as np
import polars as pl
import pytest
import torch

from data_tools.common.errors import UserError
from data_tools.tables.layouts import LAYOUTS, layout_of
from data_tools.tables.table import read_table, write_table

IDS = ["a", "b", "007", "d"]
VECTORS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
WIDE = {f"e{n}": VECTORS[:, n] for n in range(3)}


def text(vector, between=", ", around="[]"):
    return around[0] + between.join(map(str, vector.tolist())) + around[1]


def put(folder, form):
    """The table in a form; the file to read."""
    file = folder / f"t.{form.split()[0]}"
    match form:
        case "parquet wide":
            pl.DataFrame({"item_id": IDS, **WIDE}).write_parquet(file)
        case "parquet wide of any id":
            pl.DataFrame({"sku": IDS, "price": [1.0, 2.0, 3.0, 4.0], **WIDE}).write_parquet(file)
        case "parquet of a list and a name":
            pl.DataFrame({"sku": IDS, "clip": VECTORS.tolist()}).write_parquet(file)
        case "parquet text":
            pl.DataFrame({"item_id": IDS, "embedding": [text(one) for one in VECTORS]}).write_parquet(file)
        case "parquet text of numpy":
            pl.DataFrame({"item_id": IDS, "embedding": [text(one, "  ") for one in VECTORS]}).write_parquet(file)
        case "parquet of categories":
            pl.DataFrame({"item_id": pl.Series(IDS, dtype=pl.Categorical), **WIDE}).write_parquet(file)
        case "PARQUET":
            pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(file)
        case "csv":
            pl.DataFrame({"item_id": IDS, **WIDE}).write_csv(file)
        case "csv.gz":
            file.write_bytes(gzip.compress(pl.DataFrame({"item_id": IDS, **WIDE}).write_csv().encode()))
        case "csv of pandas":
            pl.DataFrame({"": IDS} | {str(n): VECTORS[:, n] for n in range(3)}).write_csv(file)
        case "csv without a header":
            pl.DataFrame({"item_id": IDS, **WIDE}).write_csv(file, include_header=False)
        case "csv text with semicolons":
            rows = [f"{item};{text(one)}" for item, one in zip(IDS, VECTORS, strict=True)]
            file.write_text("\n".join(["\ufeffitem_id;embedding", *rows, ""]))
        case "npz of other names":
            np.savez(file, item_ids=IDS, embeddings=VECTORS, mean=VECTORS.mean(axis=0))
        case "npz of bytes":
            np.savez(file, ids=np.array(IDS, dtype="S"), vectors=VECTORS)
        case "npy with a marked list":
            np.save(file, VECTORS)
            (folder / "t.ids.txt").write_text("\ufeff" + "\r\n".join(IDS) + "\r\n\r\n", newline="")
        case "h5 in a group":
            with h5py.File(file, "w") as group:
                group["clip/key"], group["clip/value"] = IDS, VECTORS
        case "h5 of an item each":
            with h5py.File(file, "w") as group:
                for item, vector in zip(IDS, VECTORS, strict=True):
                    group[f"items/{item}"] = vector
        case "pt":
            torch.save({"item_ids": IDS, "embeddings": torch.tensor(VECTORS)}, file)
        case "pt of an item each":
            torch.save({item: torch.tensor(one) for item, one in zip(IDS, VECTORS, strict=True)}, file)
        case "pt pair":
            torch.save((IDS, torch.tensor(VECTORS)), file)
        case "pt weights":
            torch.save({"weight": torch.tensor(VECTORS)}, file)
            (folder / "t.ids.txt").write_text("\n".join(IDS))
    return file


@pytest.mark.parametrize(
    "form",
    [
        "parquet wide",
        "parquet wide of any id",
        "parquet of a list and a name",
        "parquet text",
        "parquet text of numpy",
        "parquet of categories",
        "PARQUET",
        "csv",
        "csv.gz",
        "csv of pandas",
        "csv without a header",
        "csv text with semicolons",
        "npz of other names",
        "npz of bytes",
        "npy with a marked list",
        "h5 in a group",
        "h5 of an item each",
        "pt",
        "pt of an item each",
        "pt pair",
        "pt weights",
    ],
)
def test_a_form_that_people_have(tmp_path, form):
    table = read_table(put(tmp_path, form))
    found = dict(zip(table.ids, table.vectors.tolist(), strict=True))
    assert sorted(found) == sorted(IDS)
    np.testing.assert_allclose([found[item] for item in IDS], VECTORS, rtol=1e-6)


def test_a_null_vector_is_a_missing_one_and_said(tmp_path):
    pl.DataFrame({"item_id": ["a", "b", "c"], "embedding": [[1.0, 2.0], None, [3.0, 4.0]]}).write_parquet(
        tmp_path / "t.parquet"
    )
    table = read_table(tmp_path / "t.parquet")
    assert table.ids == ["a", "c"] and table.vectors.tolist() == [[1, 2], [3, 4]]
    assert "1 rows without a vector, as item 'b'" in table.notes[0]


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
        with pytest.raises(UserError, match="has changed since it was written"):
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
    described = json.loads((tmp_path / "t" / "table.json").read_text())
    del described["parts"]
    (tmp_path / "t" / "table.json").write_text(json.dumps(described))
    assert read_table(tmp_path / "t").ids == IDS


def test_a_table_in_a_folder_with_brackets_or_a_key(tmp_path):
    for name in ("t [v2]", "item_id=x"):
        write_table(tmp_path / name / "t", IDS, VECTORS, {})
        np.testing.assert_array_equal(read_table(tmp_path / name / "t").vectors, VECTORS)
        pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(tmp_path / name / "u[1].parquet")
        assert read_table(tmp_path / name / "u[1].parquet").ids == IDS


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".parquet", ".csv", ".pt"])
def test_damaged_tables_are_refused_in_one_message(suffix, tmp_path):
    """Files cut and overwritten anywhere: what their libraries raise is no traceback."""
    path, ids = tmp_path / f"table{suffix}", [f"i{n}" for n in range(6)]
    layout = LAYOUTS[layout_of(path)]
    layout.write(path, ids, np.ones((6, 3), np.float32))
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        for changed in (whole[:at], whole[:at] + bytes(8) + whole[at + 8 :]):
            path.write_bytes(changed)
            with contextlib.suppress(UserError):
                read_table(path)


@pytest.mark.parametrize("ids", [np.arange(12.0), np.arange(12, dtype=np.float32)])
def test_whole_numbers_stored_as_floats_are_ids_without_a_fraction(ids, tmp_path):
    vectors = np.eye(12, 4, dtype=np.float32) + 1
    np.savez(tmp_path / "t.npz", ids=ids, vectors=vectors)
    assert read_table(tmp_path / "t.npz").ids == list(range(12))


def test_tensors_as_models_hold_them(tmp_path):
    vectors = torch.arange(48.0).reshape(12, 4) + 1
    forms = {
        "parameter": torch.nn.Parameter(vectors),
        "transposed": vectors.T.contiguous().T,
        "sparse": vectors.to_sparse(),
        "bfloat16": vectors.bfloat16(),
    }
    for name, form in forms.items():
        torch.save({"ids": torch.arange(12), "vectors": form}, tmp_path / f"{name}.pt")
        assert np.array_equal(read_table(tmp_path / f"{name}.pt").vectors, vectors.numpy()), name


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
