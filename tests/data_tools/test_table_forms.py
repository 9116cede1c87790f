"""Embedding tables as people have them, and damaged ones of our own."""

import gzip

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file

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
        case "npy with a column of ids":
            np.save(file, np.asfortranarray(VECTORS.astype(">f8")))
            np.save(folder / "t.ids.npy", np.array(IDS)[:, None])
        case "parquet of lists of one":
            pl.DataFrame({"item_id": IDS, "embedding": [[one.tolist()] for one in VECTORS]}).write_parquet(file)
        case "parquet.gzip":
            pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(file)
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
            frame[:2].write_parquet(file / "part-0.parquet")
            frame[2:].select("embedding", "item_id").write_parquet(file / "part-1.parquet")
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
        "npy with a column of ids",
        "parquet of lists of one",
        "parquet.gzip",
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


def test_ids_that_are_paths_are_whole(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as group:
        group["shoes/1"], group["hats/2"] = VECTORS[:2]
    assert sorted(read_table(tmp_path / "t.h5").ids) == ["hats/2", "shoes/1"]


def test_a_table_in_a_folder_with_brackets_or_a_key(tmp_path):
    for name in ("t [v2]", "item_id=x"):
        write_table(tmp_path / name / "t", IDS, VECTORS, {})
        np.testing.assert_array_equal(read_table(tmp_path / name / "t").vectors, VECTORS)
        pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(tmp_path / name / "u[1].parquet")
        assert read_table(tmp_path / name / "u[1].parquet").ids == IDS


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


@pytest.mark.parametrize("kind", [pl.Float64, pl.Decimal(38, 0), pl.Decimal(10, 2)])
def test_whole_numbers_of_other_types_in_parquet_are_ids(kind, tmp_path):
    frame = pl.DataFrame({"item_id": pl.Series([7, 8, 9, 10]).cast(kind), "embedding": VECTORS.tolist()})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").ids == [7, 8, 9, 10]


@pytest.mark.parametrize("start", [0, 100])
def test_a_faiss_index_of_lists_has_ids_of_its_own_or_beside_it(start, tmp_path):
    """What it gives by place for ids of its own is whatever was in memory."""
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(3), 3, 2)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, np.arange(4)[::-1].copy() + start)
    faiss.write_index(index, str(tmp_path / "t.faiss"))
    np.save(tmp_path / "t.ids.npy", np.array(IDS))
    table = read_table(tmp_path / "t.faiss")
    assert table.ids == (IDS if start == 0 else [100, 101, 102, 103])
    np.testing.assert_array_equal(table.vectors, VECTORS[::-1])
