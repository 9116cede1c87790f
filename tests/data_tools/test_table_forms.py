"""Embedding tables as people have them, and damaged ones of our own."""

import gzip
import json
import re
import subprocess

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file

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
        case "npz of an item each":
            np.savez(file, **dict(zip(IDS, VECTORS, strict=True)))
        case "npz of a table alone":
            np.savez(file, VECTORS)
            (folder / "t.ids.txt").write_bytes("\n".join(IDS).encode("utf-16"))
        case "npz of ids and another list":
            np.savez(file, product_id=IDS, clip=VECTORS, row=np.arange(4))
        case "npy with an axis of one":
            np.save(file, VECTORS[:, None, :])
            np.save(folder / "t.ids.npy", IDS)
        case "safetensors of an item each":
            save_file(dict(zip(IDS, VECTORS, strict=True)), file)
        case "parquet of parts":
            file.mkdir()
            frame = pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()})
            (file / "_SUCCESS").touch()
            for part in range(2):
                frame[2 * part : 2 * part + 2].write_parquet(file / f"part-{part}.parquet")
        case "parquet wide as text out of order":
            pl.DataFrame({"item_id": IDS, **WIDE}).select(
                "item_id", "e2", "e0", pl.col("e1").cast(pl.String)
            ).write_parquet(file)
        case "csv of any id with semicolons":
            pl.DataFrame({"sku": IDS} | {str(n): VECTORS[:, n] for n in range(3)}).write_csv(file, separator=";")
        case "pt of an item each, as rows":
            torch.save({item: torch.tensor(one)[None] for item, one in zip(IDS, VECTORS, strict=True)}, file)
        case "pt in a wrapper":
            torch.save({"state_dict": {"ids": IDS, "vectors": torch.tensor(VECTORS)}}, file)
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
        "pt of an item each, as rows",
        "pt in a wrapper",
        "npz of an item each",
        "npz of a table alone",
        "npz of ids and another list",
        "npy with an axis of one",
        "safetensors of an item each",
        "parquet of parts",
        "parquet wide as text out of order",
        "csv of any id with semicolons",
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


def test_ids_that_are_paths_are_whole(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as group:
        group["shoes/1"], group["hats/2"] = VECTORS[:2]
    assert sorted(read_table(tmp_path / "t.h5").ids) == ["hats/2", "shoes/1"]


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
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        for changed in (whole[:at], whole[:at] + bytes(8) + whole[at + 8 :]):
            path.write_bytes(changed)
            try:
                read_table(path)
            except UserError:
                refused += 1
    assert refused > 20, "some damage is in what nobody reads, most is not"


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
